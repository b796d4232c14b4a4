//! What can be wrong with a data directory, each with its mend.

use std::io;
use std::path::{Path, PathBuf};

/// The data directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum HomeError {
    /// A file of a private network does not hold its ticket.
    #[error("{} holds no ticket of that network: get one from a member and run `p2pnode join TICKET`", path.display())]
    BadTicket {
        /// The file.
        path: PathBuf,
    },
    /// Nothing says where it should be.
    #[error("this user has no home directory; name one for the node with --data-dir DIR")]
    NoHome,
    /// Another node runs there.
    #[error(
        "the data directory `{path}` is in use by another node{}; stop it with `p2pnode stop`, or \
         give this one another --data-dir",
        pid.map(|pid| format!(" (process {pid})")).unwrap_or_default()
    )]
    InUse {
        /// The directory.
        path: PathBuf,
        /// The other node's process, when it is known.
        pid: Option<u32>,
    },
    /// Others may read a secret or write where only the owner should.
    #[error(
        "others have access to `{path}` (mode {mode:03o}); run: chmod {mend} '{path}'{}",
        if *mend == "600" { ", and think about who may have copied it" } else { "" }
    )]
    Exposed {
        /// The file or folder.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
        /// What they should be.
        mend: &'static str,
    },
    /// A secret or the directory is another user's, who could read or change it at any time.
    #[error(
        "`{path}` belongs to another user ({owner}; this is {me}): run p2pnode as that user, give this \
         node another --data-dir, or, if what is in it can be trusted, run: chown -R {me} '{path}'"
    )]
    Foreign {
        /// The file or folder.
        path: PathBuf,
        /// Whose it is: a user's number.
        owner: u32,
        /// Who this process is.
        me: u32,
    },
    /// The identity cannot be read.
    #[error(
        "`{path}` is not an identity; put back a copy of it, or remove it to become a new peer (who \
         was allowed by the old id is then to be allowed anew)"
    )]
    BadIdentity {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: Option<libp2p::identity::DecodingError>,
    },
    /// The API's token cannot be read.
    #[error("`{path}` does not hold a token; remove it and start the node again")]
    BadToken {
        /// The file.
        path: PathBuf,
    },
    /// The API's address cannot be read.
    #[error(
        "`{path}` does not hold an address; stop the node that uses its folder, and start it again"
    )]
    BadEndpoint {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// A file or folder cannot be used.
    #[error(
        "cannot use `{path}`: {source}; check that it belongs to this user and that its disk is not full"
    )]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

impl HomeError {
    /// Says where an I/O error happened.
    pub(super) fn at(path: &Path) -> impl Fn(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io {
            path: path.clone(),
            source,
        }
    }
}
