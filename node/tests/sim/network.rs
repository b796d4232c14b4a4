//! The network between nodes: connections, messages, adverts.

use p2pnode_node::core::io::{CallFailure, CallId, Input};
use p2pnode_protocol::message::{TaskRequest, TaskResponse};

use crate::fixture;
use crate::stranger::{self, STRANGER};
use crate::world::{Asked, Broken, Happening, World};

/// Time until an unanswered request counts as failed, as in the network.
const REQUEST_MS: u64 = 10_000;

impl World {
    pub fn is_cut(&self, from: usize, to: usize) -> bool {
        self.is_faulty() && self.cut.contains(&(from, to))
    }

    /// How long a message takes.
    pub fn delay(&mut self) -> u64 {
        if self.chance(self.schedule.slow) {
            self.rng.range(100, 8_000)
        } else {
            self.rng.range(1, 40)
        }
    }

    pub fn on_open(&mut self, from: usize, to: usize) -> Result<(), Broken> {
        let up = |node: usize| self.nodes[node].core.is_some();
        if !up(from) || !up(to) || self.is_cut(from, to) || self.is_cut(to, from) {
            return Ok(());
        }
        self.generation += 1;
        let generation = self.generation;
        for (node, peer) in [(from, to), (to, from)] {
            let first = self.nodes[node].open.insert(peer, generation).is_none();
            if first {
                let id = self.nodes[peer].id;
                self.input(node, Input::Connected(id))?;
            }
        }
        for (node, peer) in [(from, to), (to, from)] {
            self.send_advert(node, peer);
        }
        Ok(())
    }

    pub fn on_close(&mut self, node: usize, peer: usize, generation: u32) -> Result<(), Broken> {
        // Another connection may have taken its place.
        if self.nodes[node].open.get(&peer) != Some(&generation) {
            return Ok(());
        }
        self.nodes[node].open.remove(&peer);
        let calls: Vec<CallId> = self.nodes[node]
            .calls
            .iter()
            .filter(|(_, to)| **to == peer)
            .map(|(call, _)| *call)
            .collect();
        for call in calls {
            let life = self.nodes[node].life;
            self.on_answer(node, life, call, Err(CallFailure::Unreachable))?;
        }
        let id = self.nodes[peer].id;
        self.input(node, Input::Disconnected(id))
    }

    pub fn on_advertise(&mut self, node: usize) {
        if self.nodes[node].core.is_none() {
            return;
        }
        self.nodes[node].advertises = false;
        for other in 0..self.nodes.len() {
            if other != node {
                self.send_advert(node, other);
            }
        }
    }

    pub fn send_advert(&mut self, from: usize, to: usize) {
        let now = self.now;
        let node = &mut self.nodes[from];
        let Some(core) = &node.core else { return };
        node.issued_ms = now.max(node.issued_ms + 1);
        let view = core.capacity();
        let advert = fixture::advert(from, view.total, view.free, node.issued_ms);
        let advert = Box::new(advert);
        if !self.chance(self.schedule.drop) {
            let after = self.delay();
            self.later(after, Happening::Advert { to, from, advert });
        }
    }

    /// A call leaves a node.
    pub fn send(&mut self, from: usize, to: usize, call: CallId, request: TaskRequest) {
        let life = self.nodes[from].life;
        self.nodes[from].calls.insert(call, to);
        if to == STRANGER {
            self.mislead(from, call);
            return;
        }
        if from != to && !self.nodes[from].open.contains_key(&to) {
            let after = self.rng.range(1, 100);
            let result = Err(CallFailure::Unreachable);
            self.later(
                after,
                Happening::Answer {
                    to: from,
                    life,
                    call,
                    result,
                },
            );
            return;
        }
        let arrives = Happening::Request {
            to,
            from,
            life,
            call,
            request,
        };
        if from == to {
            self.later(0, arrives);
            return;
        }
        let result = Err(CallFailure::TimedOut);
        self.later(
            REQUEST_MS,
            Happening::Answer {
                to: from,
                life,
                call,
                result,
            },
        );
        if self.chance(self.schedule.double) {
            let after = self.rng.range(1, 20_000);
            self.later(after, arrives.clone());
        }
        if !self.chance(self.schedule.drop) {
            let after = self.delay();
            self.later(after, arrives);
        }
    }

    pub fn on_request(
        &mut self,
        to: usize,
        from: usize,
        life: u32,
        call: CallId,
        request: TaskRequest,
    ) -> Result<(), Broken> {
        if self.nodes[to].core.is_none() || self.is_cut(from, to) {
            return Ok(());
        }
        self.next_token += 1;
        let token = self.next_token;
        let asked = Asked {
            by: from,
            life,
            call,
            request: request.clone(),
        };
        self.asked.insert(token, asked);
        let peer = self.nodes[from].id;
        self.input(
            to,
            Input::Request {
                peer,
                token,
                request,
            },
        )?;
        if self.nodes[to].core.is_some() && self.asked.contains_key(&token) {
            return Err("a request was not answered".to_owned());
        }
        self.asked.remove(&token);
        Ok(())
    }

    /// An answer leaves a node.
    pub fn answer(&mut self, from: usize, asked: &Asked, response: TaskResponse) {
        let (to, life, call) = (asked.by, asked.life, asked.call);
        let arrives = Happening::Answer {
            to,
            life,
            call,
            result: Ok(response),
        };
        if to == from {
            self.later(0, arrives);
        } else if !self.chance(self.schedule.drop) && !self.is_cut(from, to) {
            let after = self.delay();
            self.later(after, arrives);
        }
    }

    pub fn on_answer(
        &mut self,
        to: usize,
        life: u32,
        call: CallId,
        result: Result<TaskResponse, CallFailure>,
    ) -> Result<(), Broken> {
        if self.nodes[to].life != life {
            return Ok(());
        }
        // Only the first answer counts.
        let Some(peer) = self.nodes[to].calls.remove(&call) else {
            return Ok(());
        };
        let peer = match peer {
            STRANGER => stranger::name(),
            number => self.nodes[number].id,
        };
        let response = result;
        self.input(
            to,
            Input::Response {
                peer,
                call,
                response,
            },
        )
    }
}
