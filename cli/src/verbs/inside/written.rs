//! The job file that `run` writes, and what comes back of its volumes.

use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use p2pnode_protocol::job::template::escape;
use p2pnode_protocol::manifest::link_stays_inside;
use tempfile::TempDir;

use crate::args::RunArgs;
use crate::exit::Failure;

/// A file or folder here that stands in the work directory.
#[derive(Debug, PartialEq, Eq)]
pub struct Volume {
    /// Absolute.
    here: PathBuf,
    /// Relative to the work directory.
    there: String,
    /// Whether it stays as it is here.
    read_only: bool,
}

impl Volume {
    fn parse(text: &str) -> Result<Self, Failure> {
        let (rest, read_only) = match text.strip_suffix(":ro") {
            Some(rest) => (rest, true),
            None => (text.strip_suffix(":rw").unwrap_or(text), false),
        };
        let wrong = |why: String| Failure::usage(format!("--volume {text}: {why}"));
        let (here, there) = rest
            .rsplit_once(':')
            .filter(|(here, there)| !here.is_empty() && !there.is_empty())
            .ok_or_else(|| wrong("write HERE:THERE, such as ./data:data".to_owned()))?;
        if there.starts_with('/') {
            return Err(wrong(format!(
                "{there} is absolute; the other side is a path in the task's work directory, such as data"
            )));
        }
        let here = Path::new(here)
            .canonicalize()
            .map_err(|error| wrong(format!("{here}: {error}")))?;
        Ok(Self {
            here,
            there: there.trim_end_matches('/').to_owned(),
            read_only,
        })
    }

    /// Puts what came back in `brought` in the place of what was sent.
    fn settle(&self, brought: &Path) -> Result<(), Failure> {
        let from = brought.join(&self.there);
        if self.read_only || from.symlink_metadata().is_err() {
            return Ok(());
        }
        let brought = match self.here.is_dir() {
            true => bring(&from, &self.here, b""),
            // In a file's place stands a file: a link there would lead the next run elsewhere.
            false => bring_file(&from, &self.here),
        };
        brought.map_err(|error| {
            Failure::internal(format!(
                "what came back cannot be written to {}: {error}",
                self.here.display()
            ))
        })
    }
}

/// Moves everything in a folder over what stands there. Links come as links, if they stay within the
/// volume: the provider chose where they lead. `path` is the folder's own in the volume.
fn bring(from: &Path, to: &Path, path: &[u8]) -> io::Result<()> {
    // A link here leads out of the volume, and what came back is not meant for there.
    let stands = to.symlink_metadata();
    if !stands.is_ok_and(|stands| stands.is_dir()) {
        std::fs::create_dir(to)?;
    }
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let (from, to) = (entry.path(), to.join(entry.file_name()));
        let mut path = path.to_vec();
        if !path.is_empty() {
            path.push(b'/');
        }
        path.extend_from_slice(entry.file_name().as_bytes());
        let kind = entry.file_type()?;
        if kind.is_dir() {
            bring(&from, &to, &path)?;
        } else if kind.is_symlink() {
            bring_link(&from, &to, &path)?;
        } else {
            bring_file(&from, &to)?;
        }
    }
    Ok(())
}

fn bring_link(from: &Path, to: &Path, path: &[u8]) -> io::Result<()> {
    let target = std::fs::read_link(from)?;
    if !link_stays_inside(path, target.as_os_str().as_bytes()) {
        let (path, target) = (String::from_utf8_lossy(path), target.display());
        return Err(io::Error::other(format!(
            "the link {path} leads out of it, to {target}"
        )));
    }
    std::fs::rename(from, to).or_else(|_| {
        // Into another filesystem nothing can be renamed.
        std::fs::remove_file(to).or_else(|error| match error.kind() {
            io::ErrorKind::NotFound => Ok(()),
            _ => Err(error),
        })?;
        std::os::unix::fs::symlink(target, to)
    })
}

fn bring_file(from: &Path, to: &Path) -> io::Result<()> {
    if !from.symlink_metadata()?.is_file() {
        return Err(io::Error::other("a file was to come back, and none came"));
    }
    if std::fs::rename(from, to).is_ok() {
        return Ok(());
    }
    // Beside its place first, so that what stands there is whole at any moment and no link is followed.
    let folder = to.parent().unwrap_or_else(|| Path::new("."));
    let copy = tempfile::NamedTempFile::new_in(folder)?;
    std::fs::copy(from, copy.path())?;
    copy.persist(to)?;
    Ok(())
}

/// What `run` asks for, as a job.
#[derive(Debug)]
pub struct Written {
    /// The text of the job file.
    pub toml: String,
    volumes: Vec<Volume>,
    /// Where outputs come in before they take their places.
    staging: TempDir,
}

/// Text in quotes, as TOML and JSON both write it.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text)
        .to_string()
        .replace('\u{7f}', "\\u007f")
}

/// The same, of a value in which braces mean something.
fn literal(text: &str) -> String {
    quoted(&escape(text))
}

impl Written {
    /// Writes the job of these arguments.
    pub fn of(args: &RunArgs) -> Result<Self, Failure> {
        let volumes = args.volumes.iter().map(|text| Volume::parse(text));
        let volumes: Vec<Volume> = volumes.collect::<Result<_, _>>()?;
        let staging = tempfile::Builder::new()
            .prefix(".p2pnode-run-")
            .tempdir_in(".")
            .map_err(|error| {
                Failure::usage(format!(
                    "the working directory must be one that can be written to, for what comes back: {error}"
                ))
            })?;
        let mut lines = vec![
            format!("name = {}", quoted(&args.job_name)),
            "[task]".into(),
        ];
        lines.extend(program(args)?);
        if !args.command.is_empty() {
            let words: Vec<String> = args.command.iter().map(|word| literal(word)).collect();
            lines.push(format!("command = [{}]", words.join(", ")));
        }
        if args.interactive {
            lines.push("attended = true".into());
        }
        lines.extend(environment(&args.env)?);
        lines.extend(resources(args));
        lines.extend(files(&volumes));
        if !args.egress.is_empty() {
            let domains: Vec<String> = args.egress.iter().map(|name| quoted(name)).collect();
            lines.push("[network]\nmode = \"egress\"".into());
            lines.push(format!("domains = [{}]", domains.join(", ")));
        }
        // A command that a person waits for is not tried again behind their back.
        lines.push("[policy]\nretries = 0\nallow_empty_outputs = true\n".into());
        Ok(Self {
            toml: lines.join("\n"),
            volumes,
            staging,
        })
    }

    /// Where the outputs are to go.
    pub fn out(&self) -> Result<String, Failure> {
        let path = self.staging.path().canonicalize();
        let path = path.map_err(|error| Failure::internal(error.to_string()))?;
        path.into_os_string().into_string().map_err(|path| {
            Failure::usage(format!(
                "{} is not UTF-8; run this in another directory",
                path.display()
            ))
        })
    }

    /// Puts what came back in its place.
    pub fn settle(self) -> Result<(), Failure> {
        self.volumes
            .iter()
            .try_for_each(|volume| volume.settle(self.staging.path()))
    }
}

fn program(args: &RunArgs) -> Result<Vec<String>, Failure> {
    if let Some(image) = &args.image {
        return Ok(vec![format!("image = {}", quoted(image))]);
    }
    let Some(wasm) = &args.wasm else {
        return Err(Failure::usage(
            "say what runs: --image IMAGE or --wasm FILE",
        ));
    };
    let path = std::path::absolute(wasm)
        .map_err(|error| Failure::usage(format!("{}: {error}", wasm.display())))?;
    let path = path
        .to_str()
        .ok_or_else(|| Failure::usage(format!("{} is not UTF-8; rename it", wasm.display())))?;
    Ok(vec![format!("wasm = {}", quoted(path))])
}

/// Reads variables as they are given on the command line.
pub fn variables(given: &[String]) -> Result<Vec<(String, String)>, Failure> {
    let pair = |text: &String| match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err(Failure::usage(format!("--env {text}: write NAME=VALUE"))),
    };
    given.iter().map(pair).collect()
}

fn environment(given: &[String]) -> Result<Option<String>, Failure> {
    let pairs: Vec<String> = variables(given)?
        .iter()
        .map(|(name, value)| format!("{} = {}", quoted(name), literal(value)))
        .collect();
    Ok((!pairs.is_empty()).then(|| format!("env = {{ {} }}", pairs.join(", "))))
}

fn resources(args: &RunArgs) -> Vec<String> {
    let mut lines = vec!["[resources]".to_owned()];
    let numbers = [("cpus", args.cpus), ("gpus", args.gpus)];
    for (key, value) in numbers {
        lines.extend(value.map(|value| format!("{key} = {value}")));
    }
    let sizes = [("memory", &args.memory), ("disk", &args.disk)];
    for (key, value) in sizes {
        lines.extend(
            value
                .as_ref()
                .map(|value| format!("{key} = {}", quoted(value))),
        );
    }
    lines
}

fn files(volumes: &[Volume]) -> Vec<String> {
    let mut lines = vec!["[inputs]".to_owned()];
    let mut paths = Vec::new();
    for Volume {
        here,
        there,
        read_only,
    } in volumes
    {
        let source = here.to_string_lossy();
        lines.push(format!("{} = {}", literal(there), literal(&source)));
        if *read_only {
            continue;
        }
        paths.push(match here.is_dir() {
            true => literal(&format!("{there}/**")),
            false => literal(there),
        });
    }
    if !paths.is_empty() {
        lines.push(format!("[outputs]\npaths = [{}]", paths.join(", ")));
    }
    lines
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use clap::Parser;
    use p2pnode_protocol::job::JobFile;

    use super::*;
    use crate::args::{Cli, InsideVerb, Verb};

    fn args(line: &[&str]) -> RunArgs {
        let words = ["p2pnode", "run"].iter().chain(line);
        match Cli::try_parse_from(words).unwrap().verb {
            Verb::Inside(InsideVerb::Run(args)) => *args,
            _ => unreachable!("that is `run`"),
        }
    }

    #[test]
    fn what_is_written_is_a_job_file_that_says_the_same() {
        let here = tempfile::tempdir().unwrap();
        let volume = format!("{}:in/data", here.path().display());
        let line = [
            "-it",
            "--image",
            "a:1",
            "--cpus",
            "2",
            "--gpus",
            "0.5",
            "--memory",
            "3GiB",
            "-e",
            "A={b}\"\u{7f}\n",
            "-v",
            &volume,
            "--egress",
            "example.org",
            "--",
            "awk",
            "{print $1}",
            "{frame}",
        ];
        let written = Written::of(&args(&line)).unwrap();
        let file = JobFile::parse(&written.toml, "run").unwrap();
        assert!(file.attended);
        let words: Vec<&str> = file.command.iter().map(|word| word.text.as_str()).collect();
        assert_eq!(words, ["awk", "{{print $1}}", "{{frame}}"]);
        assert_eq!(file.env[0].1.text, "A={{b}}\"\u{7f}\n"[2..]);
        assert_eq!(file.inputs.len(), 1);
        assert_eq!(file.outputs[0].text, "in/data/**");
    }

    #[test]
    fn what_comes_back_takes_its_place_and_nothing_else_goes() {
        let here = tempfile::tempdir().unwrap();
        let brought = tempfile::tempdir().unwrap();
        std::fs::write(here.path().join("kept"), "old").unwrap();
        std::fs::write(here.path().join("changed"), "old").unwrap();
        std::fs::create_dir_all(brought.path().join("data/deep")).unwrap();
        std::fs::write(brought.path().join("data/changed"), "new").unwrap();
        std::fs::write(brought.path().join("data/deep/new"), "new").unwrap();
        let mut volume = Volume::parse(&format!("{}:data", here.path().display())).unwrap();
        volume.settle(brought.path()).unwrap();
        let read = |name: &str| std::fs::read_to_string(here.path().join(name)).unwrap();
        assert_eq!(
            (read("kept"), read("changed"), read("deep/new")),
            ("old".into(), "new".into(), "new".into())
        );
        volume.read_only = true;
        std::fs::write(brought.path().join("data"), "").unwrap_err();
    }

    #[test]
    fn what_comes_back_leads_nowhere_else() {
        use std::os::unix::fs::symlink;
        let whole = tempfile::tempdir().unwrap();
        let path = |name: &str| whole.path().join(name);
        for folder in ["here/data", "here/elsewhere", "brought"] {
            std::fs::create_dir_all(path(folder)).unwrap();
        }
        std::fs::write(path("here/one"), "old").unwrap();
        let parse = |name: &str, there: &str| {
            Volume::parse(&format!("{}:{there}", path(name).display())).unwrap()
        };
        let (file, folder) = (parse("here/one", "one"), parse("here/data", "data"));
        // A link in a file's place.
        symlink(".", path("brought/one")).unwrap();
        assert!(file.settle(&path("brought")).is_err());
        assert_eq!(std::fs::read_to_string(path("here/one")).unwrap(), "old");
        // A link that leads out of the volume, though not out of what was brought.
        std::fs::create_dir_all(path("brought/data/deep")).unwrap();
        symlink("../../one", path("brought/data/deep/link")).unwrap();
        assert!(folder.settle(&path("brought")).is_err());
        assert!(path("here/data/deep/link").symlink_metadata().is_err());
        std::fs::remove_file(path("brought/data/deep/link")).unwrap();
        symlink("../one", path("brought/data/deep/link")).unwrap();
        folder.settle(&path("brought")).unwrap();
        assert!(path("here/data/deep/link").is_symlink());
        // A link that stands here in a folder's place.
        symlink("../elsewhere", path("here/data/out")).unwrap();
        std::fs::create_dir_all(path("brought/data/out")).unwrap();
        std::fs::write(path("brought/data/out/new"), "").unwrap();
        assert!(folder.settle(&path("brought")).is_err());
        assert!(!path("here/elsewhere/new").exists());
    }

    #[test]
    fn volumes_that_are_none_are_told() {
        assert!(Volume::parse("nowhere-at-all:x").is_err());
        assert!(Volume::parse("/tmp:/data").is_err() && Volume::parse("/tmp").is_err());
    }
}
