//! Checks a step's template and finds its blanks.
//!
//! A template may come from a peer. A [`TaskForm`] exists only for one that was checked, so whoever
//! holds it need not ask again; what comes of the blanks is for [`super::render`] to check.

use std::collections::BTreeSet;

use super::filling::Filling;
use super::limits;
use super::pattern::{OutputPattern, PatternFault};
use super::template::{self, Template, TemplateError, is_identifier};
use crate::id::StepIndex;
use crate::manifest::{BlobRef, MAX_PATH_BYTES, is_inner_path};
use crate::offer::domain_fault;
use crate::task::{InputSource, NetworkMode, Program, TaskTemplate};

/// Environment variables that begin so are the node's own.
pub const RESERVED_ENV: &str = "P2PNODE_";

/// A template that breaks a rule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FormError {
    /// More of something, or longer, than may be.
    #[error("{what}: {count} are more than the limit of {limit}")]
    TooMuch {
        /// Of what.
        what: &'static str,
        /// How many.
        count: u64,
        /// The limit.
        limit: u64,
    },
    /// A text that is not what it should be.
    #[error("{what} `{text}` is not valid")]
    Text {
        /// What it should be.
        what: &'static str,
        /// The text, shortened.
        text: String,
    },
    /// The image.
    #[error("the image {0}")]
    Image(String),
    /// A resource.
    #[error("resources.{key}: {fault}", key = .0.key, fault = .0)]
    Resource(limits::ResourceError),
    /// Blanks that nothing can fill.
    #[error("`{text}`: {}", errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Blanks {
        /// The text that they stand in, shortened.
        text: String,
        /// What is wrong with each.
        errors: Vec<TemplateError>,
    },
    /// A place for an input that is not below the work directory.
    #[error("the input path `{0}` is not below the work directory")]
    InputPath(String),
    /// An output pattern.
    #[error(transparent)]
    Pattern(#[from] PatternFault),
}

impl TaskTemplate {
    /// Checks everything that text can tell about this template, which may come from a peer.
    ///
    /// # Errors
    /// The first rule that it breaks.
    pub fn check(&self) -> Result<(), FormError> {
        TaskForm::new(self).map(drop)
    }
}

pub(super) fn shown(text: &str) -> String {
    text.chars().take(120).collect()
}

fn at_most(what: &'static str, count: usize, limit: usize) -> Result<(), FormError> {
    let (count, limit) = (count as u64, limit as u64);
    if count > limit {
        return Err(FormError::TooMuch { what, count, limit });
    }
    Ok(())
}

fn must(valid: bool, what: &'static str, text: &str) -> Result<(), FormError> {
    if valid {
        return Ok(());
    }
    let text = shown(text);
    Err(FormError::Text { what, text })
}

/// Counts and lengths, before anything is parsed.
fn check_sizes(template: &TaskTemplate) -> Result<(), FormError> {
    at_most("keys", template.keys.len(), limits::MAX_KEYS)?;
    at_most("arguments", template.command.len(), limits::MAX_ARGUMENTS)?;
    at_most("variables", template.env.len(), limits::MAX_ENV)?;
    at_most("inputs", template.inputs.len(), limits::MAX_INPUTS)?;
    let lists = input_list_bytes(template, &[]);
    if lists > limits::MAX_INPUT_LIST_BYTES {
        return Err(FormError::TooMuch {
            what: "bytes in the lists of files of the inputs; put fewer files into them, or pack them",
            count: lists,
            limit: limits::MAX_INPUT_LIST_BYTES,
        });
    }
    at_most("outputs", template.outputs.len(), limits::MAX_PATTERNS)?;
    let env = template.env.iter().flat_map(|(name, value)| [name, value]);
    let inputs = template.inputs.iter().map(|input| &input.path);
    let bytes = template
        .command
        .iter()
        .chain(env)
        .chain(inputs)
        .chain(&template.outputs)
        .chain(&template.keys)
        .fold(0usize, |sum, text| sum.saturating_add(text.len()));
    at_most("bytes of text", bytes, limits::MAX_TEMPLATE_BYTES)?;
    let times = [
        template.timeout_ms,
        template.stall_ms,
        template.prepare_timeout_ms,
        template.keep_ms,
    ];
    match times.into_iter().find(|time| *time > limits::MAX_TIME_MS) {
        Some(count) => Err(FormError::TooMuch {
            what: "milliseconds",
            count,
            limit: limits::MAX_TIME_MS,
        }),
        None => Ok(()),
    }
}

/// Length of the lists of files of all inputs of one task together, in bytes, of which `own` are its own;
/// each counts as often as it is named.
#[must_use]
pub fn input_list_bytes(template: &TaskTemplate, own: &[BlobRef]) -> u64 {
    let blobs = template
        .inputs
        .iter()
        .filter_map(|input| match input.source {
            InputSource::Shared(blob) => Some(blob),
            InputSource::PerTask(position) => own.get(usize::from(position)).copied(),
        });
    blobs.fold(0, |sum, blob| sum.saturating_add(blob.manifest_bytes))
}

/// Single words.
fn check_words(template: &TaskTemplate) -> Result<(), FormError> {
    must(
        limits::is_job_name(&template.name),
        "the name",
        &template.name,
    )?;
    if let Program::Image { reference } = &template.program
        && let Some(fault) = limits::image_fault(reference)
    {
        return Err(FormError::Image(shown(&fault)));
    }
    if let Program::Build { dockerfile, .. } = &template.program {
        must(
            is_inner_path(dockerfile.as_bytes()),
            "the Dockerfile",
            dockerfile,
        )?;
    }
    if let Some(name) = &template.sandbox {
        must(limits::is_runtime_name(name), "the OCI runtime", name)?;
    }
    if let NetworkMode::Egress { domains } = &template.network {
        // The proxy is reached from within the container's namespace, where such a runtime has its own.
        let runtime = template.sandbox.as_deref();
        must(
            runtime.is_none(),
            "beside a way out (network.mode), the OCI runtime (task.runtime)",
            runtime.unwrap_or_default(),
        )?;
        at_most("domains", domains.len(), limits::MAX_DOMAINS)?;
        for domain in domains {
            must(domain_fault(domain, false).is_none(), "the domain", domain)?;
        }
    }
    if let Some(fault) = template.resources.faults().into_iter().next() {
        return Err(FormError::Resource(fault));
    }
    let mut seen = BTreeSet::new();
    for key in &template.keys {
        let fresh = is_key_name(key) && seen.insert(key.to_ascii_uppercase());
        must(fresh, "the array key", key)?;
    }
    let mut seen = BTreeSet::new();
    for (name, value) in &template.env {
        must(
            is_env_name(name) && seen.insert(name),
            "the environment variable",
            name,
        )?;
        must(!value.contains('\0'), "the value", value)?;
    }
    for argument in &template.command {
        must(!argument.contains('\0'), "the argument", argument)?;
    }
    let first = template.command.first();
    must(
        first.is_none_or(|command| !command.is_empty()),
        "the command",
        "",
    )
}

/// Whether `name` may be an array key's.
#[must_use]
pub fn is_key_name(name: &str) -> bool {
    is_identifier(name)
        && name.len() <= limits::MAX_IDENTIFIER_BYTES
        && !template::RESERVED_NAMES
            .iter()
            .chain(&["task"])
            .any(|reserved| reserved.eq_ignore_ascii_case(name))
}

/// Whether `name` may be a job's environment variable.
#[must_use]
pub fn is_env_name(name: &str) -> bool {
    is_identifier(name)
        && name.len() <= limits::MAX_IDENTIFIER_BYTES
        && !name.starts_with(RESERVED_ENV)
}

/// A template whose blanks were found and whose every rule was checked.
#[derive(Debug, Clone)]
pub struct TaskForm {
    pub(super) step: StepIndex,
    pub(super) command: Vec<Template>,
    pub(super) env: Vec<(String, Template)>,
    /// Names of the variables that tell the keys' values, in the order of the keys.
    pub(super) key_env: Vec<String>,
    pub(super) inputs: Vec<(Template, InputSource)>,
    pub(super) outputs: Vec<Template>,
}

impl TaskForm {
    /// Checks `template`, which may come from a peer, and finds its blanks.
    ///
    /// # Errors
    /// The first rule that it breaks.
    pub fn new(template: &TaskTemplate) -> Result<Self, FormError> {
        check_sizes(template)?;
        check_words(template)?;
        let parse = |text: &String| {
            Template::parse(text, &template.keys).map_err(|errors| FormError::Blanks {
                text: shown(text),
                errors,
            })
        };
        let key_env = |key: &String| format!("{RESERVED_ENV}{}", key.to_ascii_uppercase());
        let form = Self {
            step: template.step,
            command: template
                .command
                .iter()
                .map(parse)
                .collect::<Result<_, _>>()?,
            env: template
                .env
                .iter()
                .map(|(name, value)| Ok((name.clone(), parse(value)?)))
                .collect::<Result<_, FormError>>()?,
            key_env: template.keys.iter().map(key_env).collect(),
            inputs: template
                .inputs
                .iter()
                .map(|input| Ok((parse(&input.path)?, input.source)))
                .collect::<Result<_, FormError>>()?,
            outputs: template
                .outputs
                .iter()
                .map(parse)
                .collect::<Result<_, _>>()?,
        };
        form.check_plain()?;
        Ok(form)
    }

    /// Checks the paths and patterns that have no blanks; the others wait for their values.
    fn check_plain(&self) -> Result<(), FormError> {
        let nothing = Filling {
            values: &[],
            index: 0,
            job: None,
            pick: None,
        };
        for (path, _) in &self.inputs {
            let plain = path.blanks().next().is_none();
            let inner = |path: String| is_inner_path(path.as_bytes());
            if plain && !path.fill(&nothing, MAX_PATH_BYTES).is_ok_and(inner) {
                return Err(FormError::InputPath(shown(path.text())));
            }
        }
        for pattern in &self.outputs {
            if pattern.blanks().next().is_none() {
                OutputPattern::fill(pattern, &nothing)?;
            }
        }
        Ok(())
    }
}
