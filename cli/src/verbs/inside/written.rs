//! The job file that `run` writes.

use p2pnode_protocol::job::template::escape;
use tempfile::TempDir;

use super::volume::Volume;
use crate::args::RunArgs;
use crate::exit::Failure;

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

    /// Whether anything is to come back.
    pub fn has_outputs(&self) -> bool {
        self.volumes.iter().any(|volume| !volume.read_only)
    }

    /// Puts what came back in its place. What finds none stays in the folder where it came in, which is named.
    pub fn settle(self) -> Result<(), Failure> {
        let came = self.staging.path();
        let left: Vec<String> = self
            .volumes
            .iter()
            .flat_map(|volume| volume.settle(came))
            .collect();
        if left.is_empty() {
            return Ok(());
        }
        let kept = self.staging.keep();
        let why = format!(
            "what came back and could not be put in its place is in {}",
            kept.display()
        );
        Err(Failure::internal(why).with_details(left))
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
        ..
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
}
