//! `template`: job files to begin with.
//!
//! They are part of the program, so that they fit its rules; a test validates each. They teach: every
//! line says what it is for.

use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use p2pnode_protocol::job::nearest;
use serde_json::json;

use crate::args::{Global, TemplateVerb};
use crate::exit::Failure;
use crate::output;

struct Template {
    name: &'static str,
    toml: &'static str,
}

macro_rules! templates {
    ($($name:literal),+ $(,)?) => {
        [$(Template {
            name: $name,
            toml: include_str!(concat!("../../templates/", $name, ".toml")),
        }),+]
    };
}

/// From the simplest to the more special.
static TEMPLATES: [Template; 8] = templates![
    "command",
    "sweep",
    "blender-frames",
    "blender-tiles",
    "ffmpeg-segments",
    "pytorch-train",
    "simulation",
    "jupyter",
];

impl Template {
    fn find(name: &str) -> Result<&'static Self, Failure> {
        if let Some(found) = TEMPLATES.iter().find(|template| template.name == name) {
            return Ok(found);
        }
        let mend = match nearest(name, TEMPLATES.iter().map(|template| template.name)) {
            Some(near) => format!("did you mean `{near}`?"),
            None => "`p2pnode template list` names all".to_owned(),
        };
        Err(Failure::usage(format!("no template `{name}`: {mend}")))
    }

    /// Its first line.
    fn title(&self) -> &'static str {
        let first = self.toml.lines().next().unwrap_or_default();
        first.trim_start_matches(['#', ' '])
    }
}

/// Does what was asked about templates.
pub fn template(global: &Global, verb: &TemplateVerb) -> Result<ExitCode, Failure> {
    match verb {
        TemplateVerb::List => list(global),
        TemplateVerb::Show { name } => show(global, Template::find(name)?),
        TemplateVerb::New { name, file, force } => {
            let found = Template::find(name)?;
            write(file, found.toml, *force)?;
            say_next(global, found, file);
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn list(global: &Global) {
    if global.json {
        let all: Vec<_> = TEMPLATES
            .iter()
            .map(|template| json!({ "name": template.name, "title": template.title() }))
            .collect();
        output::line_json(&all);
        return;
    }
    let rows: Vec<Vec<String>> = TEMPLATES
        .iter()
        .map(|template| vec![template.name.to_owned(), template.title().to_owned()])
        .collect();
    output::table(&["TEMPLATE", "FOR"], &rows);
}

fn show(global: &Global, template: &Template) {
    if global.json {
        output::line_json(&json!({ "name": template.name, "toml": template.toml }));
    } else {
        output::raw(template.toml);
    }
}

/// Writes a file whole or not at all; over another one only with `force`.
fn write(path: &Path, text: &str, force: bool) -> Result<(), Failure> {
    let shown = path.display();
    let failed = |error: std::io::Error| match error.kind() {
        ErrorKind::AlreadyExists => Failure::usage(format!(
            "{shown} exists: name another file, or replace it with --force"
        )),
        ErrorKind::NotFound => {
            Failure::usage(format!("{shown} is in a folder that does not exist"))
        }
        _ => Failure::usage(format!("cannot write {shown}: {error}")),
    };
    if !force {
        let mut file = File::create_new(path).map_err(failed)?;
        return file.write_all(text.as_bytes()).map_err(|error| {
            // Half a job file is none; that it cannot be removed changes nothing.
            let _left = fs::remove_file(path);
            failed(error)
        });
    }
    let folder = path.parent().filter(|folder| *folder != Path::new(""));
    let mut file =
        tempfile::NamedTempFile::new_in(folder.unwrap_or(Path::new("."))).map_err(failed)?;
    file.write_all(text.as_bytes()).map_err(failed)?;
    // Temporary files are for their owner alone; this one is a file like any other.
    let mode = path
        .metadata()
        .map_or_else(|_| default_mode(), |old| old.permissions());
    file.as_file().set_permissions(mode).map_err(failed)?;
    file.persist(path)
        .map(drop)
        .map_err(|error| failed(error.error))
}

fn default_mode() -> fs::Permissions {
    use std::os::unix::fs::PermissionsExt;
    fs::Permissions::from_mode(0o644)
}

fn say_next(global: &Global, template: &Template, file: &PathBuf) {
    let shown = file.display();
    if global.json {
        output::line_json(&json!({ "name": template.name, "file": file }));
        return;
    }
    output::line(format!("{shown} is written: {}", template.title()));
    output::line(format!(
        "edit it (every line says what it is for), then:\n  p2pnode validate {shown}\n  p2pnode submit {shown}"
    ));
}
