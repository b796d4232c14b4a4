//! Carrying out a Dockerfile, stage by stage.
//!
//! Decides what goes to the engine's builder and what is a step of ours, and what each of them builds
//! upon. Images are handed on by id: no name of the Dockerfile's ever reaches the engine.

use bollard::models::ImageConfig;
use p2pnode_protocol::Bytes;
use p2pnode_protocol::task::{Failure, FailureKind};

use super::budget::Budget;
use super::dockerfile::{Instruction, Stage, Verb};
use super::step::{self, Step};
use super::{BUILD, Build, context, options, segment, words};
use crate::docker::image::{access, pull};

/// Shells to which a variable can be given within the command. Other programs get them as their
/// environment, which the image then keeps.
const SHELLS: [&str; 6] = ["sh", "bash", "ash", "dash", "ksh", "zsh"];

/// The longest part of an instruction that failures show.
const SHOWN_CHARS: usize = 120;

fn bad(why: impl Into<String>) -> Failure {
    Failure::new(FailureKind::BadProgram, why)
}

fn shown(instruction: &Instruction) -> String {
    let text = instruction.to_string();
    let mut short: String = text
        .chars()
        .filter(|c| !c.is_control())
        .take(SHOWN_CHARS)
        .collect();
    if text.chars().count() > SHOWN_CHARS {
        short.push_str("...");
    }
    format!("line {}, `{short}`,", instruction.line)
}

/// Builds all stages and returns the id of the last.
///
/// # Errors
/// As [`build`](super::build()).
pub(super) async fn run(build: &Build<'_>) -> Result<String, Failure> {
    let mut built = Vec::<String>::new();
    let stages = &build.recipe.stages;
    let (globals, common) = globals(build)?;
    for (at, stage) in stages.iter().enumerate() {
        let lookup = |name: &str| {
            let found = globals.iter().rev().find(|(known, _)| known == name);
            found.and_then(|(_, value)| value.clone())
        };
        let base = words::expand(&stage.base, build.recipe.escape, &lookup).map_err(bad)?;
        let earlier = Earlier {
            stages: &stages[..at],
            ids: &built,
        };
        let base = match base.as_str() {
            "" => return Err(bad("FROM names nothing when its variables are filled in")),
            "scratch" => None,
            name => Some(earlier.image(build, name).await?),
        };
        let under = size_of(build, base.as_deref()).await?;
        let mut budget = Budget::default();
        for variable in &under.env {
            budget.image(variable).map_err(bad)?;
        }
        let mut course = Course {
            build,
            earlier,
            globals: &globals,
            common: &common,
            budget,
            base_bytes: under.bytes,
            at: base,
            args: Vec::new(),
            pending: vec![format!("LABEL {BUILD}=\"{}\"", build.mark)],
            waiting: 1,
            needs_context: false,
        };
        for instruction in &stage.steps {
            course.take(instruction).await?;
        }
        if at + 1 == stages.len() {
            course.pending.push(format!("LABEL {BUILD}=\"\""));
        }
        built.push(course.flush().await?);
    }
    built.pop().ok_or_else(|| bad("it has no FROM"))
}

/// What an image is, its base included.
#[derive(Debug, Default)]
struct Under {
    bytes: u64,
    env: Vec<String>,
}

async fn size_of(build: &Build<'_>, id: Option<&str>) -> Result<Under, Failure> {
    let Some(id) = id else {
        return Ok(Under::default());
    };
    let Some(found) = pull::inspect(build.work.docker(), id).await? else {
        return Ok(Under::default());
    };
    let bytes = found.size.and_then(|size| u64::try_from(size).ok());
    let env = found.config.and_then(|config| config.env);
    Ok(Under {
        bytes: bytes.unwrap_or(0),
        env: env.unwrap_or_default(),
    })
}

/// `ARG`s with their values.
type Args = Vec<(String, Option<String>)>;

fn globals(build: &Build<'_>) -> Result<(Args, Budget), Failure> {
    let (mut all, mut budget) = (Args::new(), Budget::default());
    for instruction in &build.recipe.globals {
        let taken = budget.take(instruction, build.recipe.escape, &Budget::default());
        taken.map_err(bad)?;
        declare(&mut all, instruction, build.recipe.escape, &|_| None, &[])?;
    }
    Ok((all, budget))
}

/// Adds what one `ARG` says to `args`. A variable of the image wins over one of the same name.
fn declare(
    args: &mut Args,
    instruction: &Instruction,
    escape: char,
    image: &dyn Fn(&str) -> Option<String>,
    globals: &[(String, Option<String>)],
) -> Result<(), Failure> {
    for word in words::split(&instruction.rest, escape) {
        let known = |args: &Args, name: &str| {
            let found = args.iter().rev().find(|(known, _)| known == name);
            found.and_then(|(_, value)| value.clone())
        };
        let (name, value) = match word.split_once('=') {
            Some((name, value)) => {
                let lookup = |name: &str| image(name).or_else(|| known(args, name));
                let value = words::expand(value, escape, &lookup)
                    .map_err(|why| bad(format!("line {}: {why}", instruction.line)))?;
                (name.to_owned(), Some(value))
            }
            None => {
                let found = globals.iter().rev().find(|(known, _)| *known == word);
                let value = found.and_then(|(_, value)| value.clone());
                (word, value)
            }
        };
        let fits = |c: char| c.is_ascii_alphanumeric() || c == '_';
        if name.is_empty() || !name.chars().all(fits) {
            return Err(bad(format!("line {}: ARG needs a name", instruction.line)));
        }
        args.push((name, value));
    }
    Ok(())
}

/// The stages that are built already.
#[derive(Debug, Clone, Copy)]
struct Earlier<'a> {
    stages: &'a [Stage],
    ids: &'a [String],
}

impl Earlier<'_> {
    fn find(&self, name: &str) -> Option<&str> {
        let lower = name.to_ascii_lowercase();
        let named = |stage: &Stage| stage.name.as_deref() == Some(lower.as_str());
        let at = self.stages.iter().rposition(named);
        self.ids.get(at?).map(String::as_str)
    }

    /// The id of a stage, or of an image that the submitter could run.
    async fn image(&self, build: &Build<'_>, name: &str) -> Result<String, Failure> {
        if let Some(id) = self.find(name) {
            return Ok(id.to_owned());
        }
        let found = pull::resolve(build.work, name, None, build.local_registry).await?;
        if !access::is_named(name, &found) {
            return Err(bad(format!("the image {name} must be given by its name")));
        }
        let config = found.config.unwrap_or_default();
        if config.on_build.is_some_and(|triggers| !triggers.is_empty()) {
            return Err(bad(format!(
                "the image {name} has ONBUILD instructions, which are not supported"
            )));
        }
        let id = found.id.unwrap_or_default();
        let lease = build.work.cache().lease(&id).await;
        let leases = build.leases.lock();
        leases
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .push(lease);
        Ok(id)
    }
}

/// One stage on its way.
struct Course<'a> {
    build: &'a Build<'a>,
    earlier: Earlier<'a>,
    globals: &'a [(String, Option<String>)],
    /// What the globals take, and what the stage has taken so far.
    common: &'a Budget,
    budget: Budget,
    /// The size of what the stage builds upon.
    base_bytes: u64,
    /// The image so far; none for `scratch`.
    at: Option<String>,
    /// `ARG`s so far.
    args: Vec<&'a Instruction>,
    /// What the builder is to carry out next, and how many of the Dockerfile's instructions that are.
    pending: Vec<String>,
    waiting: u64,
    needs_context: bool,
}

impl<'a> Course<'a> {
    async fn take(&mut self, instruction: &'a Instruction) -> Result<(), Failure> {
        let taken = self
            .budget
            .take(instruction, self.build.recipe.escape, self.common);
        taken.map_err(bad)?;
        match instruction.verb {
            Verb::Run => return self.step(instruction).await,
            Verb::Copy | Verb::Add => {
                let line = self.copy(instruction).await?;
                self.pending.push(line);
            }
            Verb::Arg => {
                self.args.push(instruction);
                self.pending.push(instruction.to_string());
            }
            Verb::From | Verb::Shell | Verb::Plain(_) => {
                self.pending.push(instruction.to_string());
            }
        }
        self.waiting += 1;
        Ok(())
    }

    /// What the builder is told for a `COPY` or an `ADD`.
    async fn copy(&mut self, instruction: &Instruction) -> Result<String, Failure> {
        let (given, rest) = options::split("COPY", &instruction.rest).map_err(bad)?;
        let (mut options, mut from) = (String::new(), None);
        for (name, value) in given {
            match name {
                "from" if from.is_some() => {
                    return Err(bad(format!("{} names two stages", shown(instruction))));
                }
                "from" => from = Some(value),
                _ => options.push_str(&format!("--{name}={value} ")),
            }
        }
        if instruction.verb == Verb::Add && !self.adds_plainly(rest, from) {
            return Err(bad(format!(
                "{} fetches or unpacks, which the builder does outside the job's limits: use COPY, \
                 and RUN to unpack",
                shown(instruction)
            )));
        }
        match from {
            None => self.needs_context = true,
            Some(name) => {
                let by_number = name
                    .parse()
                    .ok()
                    .and_then(|at: usize| self.earlier.ids.get(at));
                let id = match by_number {
                    Some(id) => id.clone(),
                    None => self.earlier.image(self.build, name).await?,
                };
                options.push_str(&format!("--from={id} "));
            }
        }
        Ok(format!("COPY {options}{rest}"))
    }

    /// Whether an `ADD` does the same as a `COPY`.
    fn adds_plainly(&self, rest: &str, from: Option<&str>) -> bool {
        let bare = |c: char| c.is_ascii_alphanumeric() || "._-/ \t".contains(c);
        let words: Vec<_> = rest.split_whitespace().collect();
        let sources = words.split_last().map_or(&[][..], |(_, sources)| sources);
        from.is_none()
            && rest.chars().all(bare)
            && sources
                .iter()
                .all(|source| context::is_plain(self.build.context, source))
    }

    /// Has the builder do what is pending, and returns the image so far.
    async fn flush(&mut self) -> Result<String, Failure> {
        let pending = std::mem::take(&mut self.pending);
        if let (Some(at), true) = (&self.at, pending.is_empty()) {
            return Ok(at.clone());
        }
        let escape = self.build.recipe.escape;
        let mut lines = vec![format!("# escape={escape}")];
        lines.extend(self.build.recipe.globals.iter().map(ToString::to_string));
        lines.push(format!("FROM {}", self.at.as_deref().unwrap_or("scratch")));
        // What it was told before a step of ours it has forgotten.
        lines.extend(self.args.iter().map(ToString::to_string));
        lines.extend(pending);
        let needs_context = std::mem::take(&mut self.needs_context);
        let id = segment::run(self.build, lines.join("\n") + "\n", needs_context).await?;
        self.build.went_on(std::mem::take(&mut self.waiting));
        self.at = Some(id.clone());
        self.check_size(&id).await?;
        Ok(id)
    }

    /// All steps of a stage together keep to the disk limit, not just each by itself.
    async fn check_size(&self, id: &str) -> Result<(), Failure> {
        let limit = self.build.resources.disk;
        let grown = size_of(self.build, Some(id))
            .await?
            .bytes
            .saturating_sub(self.base_bytes);
        if grown > limit.0 {
            return Err(bad(format!(
                "the image grew by {} in this build, beyond the disk limit of {limit}",
                Bytes(grown)
            )));
        }
        Ok(())
    }

    async fn step(&mut self, instruction: &Instruction) -> Result<(), Failure> {
        let image = self.flush().await?;
        let found = pull::inspect(self.build.work.docker(), &image).await?;
        let config = found.and_then(|found| found.config).unwrap_or_default();
        let (command, env) = self.command(instruction, &config)?;
        let shown = shown(instruction);
        let step = Step {
            image: &image,
            config: &config,
            command,
            env,
            shown: &shown,
        };
        let id = step::run(self.build, &step).await?;
        self.build.went_on(1);
        self.at = Some(id.clone());
        self.check_size(&id).await
    }

    /// The whole command of a `RUN`, and the variables that go beside it.
    fn command(
        &self,
        instruction: &Instruction,
        config: &ImageConfig,
    ) -> Result<(Vec<String>, Vec<String>), Failure> {
        let image = |name: &str| {
            let mut all = config
                .env
                .iter()
                .flatten()
                .filter_map(|one| one.split_once('='));
            all.find(|(known, _)| *known == name)
                .map(|(_, value)| value.to_owned())
        };
        let mut args = Args::new();
        let escape = self.build.recipe.escape;
        for instruction in &self.args {
            declare(&mut args, instruction, escape, &image, self.globals)?;
        }
        args.retain(|(name, value)| value.is_some() && image(name).is_none());
        let pairs = args
            .into_iter()
            .map(|(name, value)| (name, value.unwrap_or_default()));
        let text = instruction.rest.trim();
        if text.starts_with('[')
            && let Ok(command) = serde_json::from_str::<Vec<String>>(text)
            && !command.is_empty()
        {
            let env = pairs.map(|(name, value)| format!("{name}={value}"));
            return Ok((command, env.collect()));
        }
        let shell = config.shell.clone().filter(|shell| !shell.is_empty());
        let mut command = shell.unwrap_or_else(|| vec!["/bin/sh".into(), "-c".into()]);
        let program = command[0].rsplit('/').next().unwrap_or_default();
        if SHELLS.contains(&program) {
            let quoted = |value: String| value.replace('\'', r"'\''");
            let exports: String = pairs
                .map(|(name, value)| format!("export {name}='{}'; ", quoted(value)))
                .collect();
            command.push(exports + text);
            return Ok((command, Vec::new()));
        }
        let env = pairs
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        command.push(text.to_owned());
        Ok((command, env))
    }
}
