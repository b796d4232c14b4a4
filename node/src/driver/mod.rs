//! Where everything meets: a node from its start to its end.
//!
//! [`Node::start`] opens the data directory's state, starts the network, the runtimes and the local
//! API, and hands all of it to the loop in [`actor`]. One file for each family of effects:
//! [`calls`] on peers, [`hosting`] (with [`preparing`] and [`running`]) of other peers' tasks,
//! [`collecting`] of this node's own results, [`advertising`] of capacity; [`inbound`] serves streams
//! that peers open, as far as [`holders`] permits; [`owner`] answers the API, [`terms`] says what an
//! offer comes to; [`membership`] says which networks the node is
//! in; [`metrics`] counts all of it, and [`meter`] and [`energy`] measure tasks.

mod actor;
mod advertising;
mod assembly;
mod calls;
mod charge;
mod clock;
mod collecting;
mod conditions;
mod diskroom;
mod energy;
mod fetching;
mod history;
mod holders;
mod hosting;
mod inbound;
mod loghub;
mod logins;
mod logpipe;
mod manifests;
mod membership;
mod meter;
mod metrics;
mod node;
mod output;
mod owner;
mod performing;
mod preparing;
mod probing;
mod program;
mod reaching;
mod remembering;
mod running;
mod slots;
mod submitting;
mod terms;
mod turns;

pub use node::{Helpers, Node, NodeError};
