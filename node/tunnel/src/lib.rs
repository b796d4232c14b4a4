//! What the owner of a job does inside its running tasks.
//!
//! One protocol ([`p2pnode_protocol::tunnel`]), one check, and behind it commands, SSH, files and
//! ports.
