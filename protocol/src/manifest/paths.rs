//! Which paths and links may stand in a manifest, told from their bytes alone.

use super::MAX_PATH_BYTES;

/// A path as a person reads it: bytes that are no text become `�`, control characters are escaped,
/// and it is cut at 200 bytes, for it may come from a hostile peer and go to a terminal.
#[must_use]
pub fn shown(path: &[u8]) -> String {
    let text = String::from_utf8_lossy(&path[..path.len().min(200)]);
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() {
            shown.extend(c.escape_default());
        } else {
            shown.push(c);
        }
    }
    shown
}

/// How many folders a path lies in.
#[must_use]
pub fn depth(path: &[u8]) -> usize {
    path.iter().filter(|byte| **byte == b'/').count()
}

/// Whether `path` is relative and stays inside: every name non-empty, not `.` or `..`, no NUL.
#[must_use]
pub fn is_inner_path(path: &[u8]) -> bool {
    !path.is_empty()
        && path.len() <= MAX_PATH_BYTES
        && path
            .split(|byte| *byte == b'/')
            .all(|name| !name.is_empty() && name != b"." && name != b".." && !name.contains(&0))
}

/// Whether a link at `path` to `target` stays inside the tree, whatever other links the tree holds.
///
/// The folder of a link is a real folder of the tree, so `..` at the head of the target are counted
/// exactly. After a name they are refused: the name may be a link itself, `..` then starts from where that
/// leads, and a chain of links that each look harmless climbs out of the tree.
#[must_use]
pub fn link_stays_inside(path: &[u8], target: &[u8]) -> bool {
    if target.is_empty()
        || target.len() > MAX_PATH_BYTES
        || target[0] == b'/'
        || target.contains(&0)
    {
        return false;
    }
    let names = || target.split(|byte| *byte == b'/');
    let at_head = |name: &&[u8]| matches!(*name, b"" | b"." | b"..");
    let up = names().take_while(at_head).filter(|name| *name == b"..");
    up.count() <= depth(path) && names().skip_while(at_head).all(|name| name != b"..")
}
