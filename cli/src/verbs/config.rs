//! `config show`.

use std::process::ExitCode;

use crate::args::{Global, NodeFlags};
use crate::exit::Failure;
use crate::{here, output};

pub fn show(global: &Global) -> Result<ExitCode, Failure> {
    let config = here::config(global, &NodeFlags::default())?;
    let settings = config.explain();
    if global.json {
        output::pretty_json(&settings);
    } else {
        output::line(settings.to_string().trim_end());
    }
    Ok(ExitCode::SUCCESS)
}
