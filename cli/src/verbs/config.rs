//! `config show`.

use std::process::ExitCode;

use crate::args::{Global, NodeFlags};
use crate::exit::Failure;
use crate::{here, output};

pub fn show(global: &Global) -> Result<ExitCode, Failure> {
    let config = here::config(global, &NodeFlags::default())?;
    let values = config.explain();
    if global.json {
        output::pretty_json(&values);
    } else {
        let rows: Vec<Vec<String>> = values
            .iter()
            .map(|value| vec![value.key.to_string(), value.value.to_string(), value.source.to_string()])
            .collect();
        output::table(&["KEY", "VALUE", "FROM"], &rows);
    }
    Ok(ExitCode::SUCCESS)
}
