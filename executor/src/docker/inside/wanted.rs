//! What the engine is to start when a command is wanted: its words and its environment.

use std::sync::Arc;

use p2pnode_protocol::tunnel::ExecSpec;

use super::{Core, View, invalid};
use crate::inside::InsideError;

/// Gives a command its terminal, whose name is `$0`: the engine has made it the leader of a session
/// without one, so that the first that it opens becomes its own. What it says before is for this node.
const TAKE_TERMINAL: &str = r#"case $1 in
*/*) [ -f "$1" ] && [ -x "$1" ] ;;
*) command -v "$1" ;;
esac >/dev/null 2>&1 || { echo "$NO_SUCH"; exit 127; }
exec "$@" <>"$0" >&0 2>&0"#;

/// How [`TAKE_TERMINAL`] says that there is no such command.
pub(super) const NO_SUCH: &str = "p2pnode: there is no such command";

/// The shell that every image with a shell has, and a better one.
pub(super) const PLAIN_SHELL: &str = "/bin/sh";
const BETTER_SHELL: &str = "/bin/bash";

/// The task's environment, and what comes on top.
pub(super) fn environment(core: &Core, spec: &ExecSpec) -> Result<Vec<String>, InsideError> {
    let mut all = core.place.env.clone();
    let term = spec.terminal.as_ref().map(|terminal| &terminal.term);
    let term = term.map(|term| ("TERM".to_owned(), term.clone()));
    for (name, value) in term.iter().chain(&spec.env) {
        if name.is_empty() || name.contains(['=', '\0']) || value.contains('\0') {
            return Err(invalid(format!(
                "the environment variable `{}` cannot be set: a name must not be empty or hold `=`, \
                 and neither name nor value may hold a NUL character",
                name.escape_debug()
            )));
        }
        let begins = format!("{name}=");
        all.retain(|known| !known.starts_with(&begins));
        all.push(format!("{begins}{value}"));
    }
    Ok(all)
}

/// The command, filled in when it is empty.
pub(super) async fn command_of(
    core: &Core,
    spec: &ExecSpec,
    is_task: bool,
    view: Option<Arc<View>>,
) -> Vec<String> {
    if !spec.command.is_empty() {
        return spec.command.clone();
    }
    let own = core.place.attendance.as_ref().filter(|_| is_task);
    if let Some(own) = own.filter(|own| !own.command().is_empty()) {
        return own.command().to_vec();
    }
    let find = move || {
        let view = view.as_ref()?;
        view.has_program(BETTER_SHELL).then_some(BETTER_SHELL)
    };
    let found = tokio::task::spawn_blocking(find).await;
    vec![found.ok().flatten().unwrap_or(PLAIN_SHELL).to_owned()]
}

/// What the engine is to start; `terminal` names the terminal that the command is to take.
pub(super) fn wrapped(command: &[String], terminal: Option<&str>) -> Vec<String> {
    let Some(terminal) = terminal else {
        return command.to_vec();
    };
    let script = TAKE_TERMINAL.replace("$NO_SUCH", NO_SUCH);
    let before = [PLAIN_SHELL, "-c", &script, terminal].map(str::to_owned);
    before.into_iter().chain(command.iter().cloned()).collect()
}
