//! What a manifest must keep to before anything is written by it.
//!
//! Owns the rules that go beyond [`Manifest::check`]. Called by whoever makes a manifest (so that a
//! submitter learns of a fault before a peer does) and by whoever is about to write one.

use p2pnode_protocol::manifest::{EntryKind, Manifest, ManifestError};

use super::folder::shown;

/// How deep folders may nest. Walking holds one handle per level open, and a process has 1,024 by
/// default; trees of source code and packages stay below 40.
pub const MAX_DEPTH: usize = 100;

/// A manifest that must not be written out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UnsafeManifest {
    /// Its text breaks a rule.
    #[error(transparent)]
    Text(#[from] ManifestError),
    /// Folders in folders, over [`MAX_DEPTH`].
    #[error("`{0}` lies more than {MAX_DEPTH} folders deep; flatten the tree or pack it")]
    TooDeep(String),
    /// A link with `..` after a name.
    #[error(
        "the link `{link}` goes up (`..`) after a name in `{target}`, which may lead out of the \
         folder through another link; write its target without that"
    )]
    LinkGoesUp {
        /// The link.
        link: String,
        /// What it says.
        target: String,
    },
}

/// Whether `..` stands only at the head of a link's target.
///
/// The folder of a link is a real folder of the tree, so leading `..` are counted exactly. After a
/// name they are not: the name may be a link itself, `..` then starts from where that leads, and a
/// chain of links that each look harmless climbs out of the tree.
#[must_use]
pub fn goes_up_only_at_head(target: &[u8]) -> bool {
    target
        .split(|byte| *byte == b'/')
        .skip_while(|name| matches!(*name, b"" | b"." | b".."))
        .all(|name| name != b"..")
}

/// Checks everything that can be told without touching the disk.
///
/// # Errors
/// The first entry that breaks a rule.
pub fn check(manifest: &Manifest) -> Result<(), UnsafeManifest> {
    manifest.check()?;
    for entry in &manifest.entries {
        if depth(&entry.path) > MAX_DEPTH {
            return Err(UnsafeManifest::TooDeep(shown(&entry.path)));
        }
        if let EntryKind::Symlink { target } = &entry.kind
            && !goes_up_only_at_head(target)
        {
            return Err(UnsafeManifest::LinkGoesUp {
                link: shown(&entry.path),
                target: shown(target),
            });
        }
    }
    Ok(())
}

/// How many folders a path lies in.
#[must_use]
pub fn depth(path: &[u8]) -> usize {
    path.iter().filter(|byte| **byte == b'/').count()
}
