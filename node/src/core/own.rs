//! This node as a peer of itself: what it offers stands in its own table of peers like anyone's advert,
//! so that its jobs can run here.

use p2pnode_protocol::advert::Advert;

use super::Core;
use super::io::{Effect, Millis};

/// What is free of this node, as far as an advert tells: CPUs, memory, disk, GPUs.
pub(super) type Free = (u32, u64, u64, usize);

impl Core {
    /// What this node offers itself changed.
    pub(super) fn on_own_offer(&mut self, now: Millis, out: &mut Vec<Effect>) {
        self.refresh_own();
        let (cx, parts) = self.cx(now, out);
        parts.submit.on_advert(&cx, cx.config.me, true);
    }

    /// Asks for an advert when what is free changed.
    pub(super) fn note_free(&mut self, out: &mut Vec<Effect>) {
        let free = self.host.free();
        let now_free = (free.cpus.0, free.memory.0, free.disk.0, free.gpus.len());
        if now_free != self.advertised {
            self.advertised = now_free;
            let (running, queued) = (self.host.running(), self.host.queued());
            self.peers.set_own_free(free, running, queued);
            out.push(Effect::Advertise);
        }
    }

    /// This node as a peer of itself.
    pub(super) fn refresh_own(&mut self) {
        let own = self.host.is_offering().then(|| Advert {
            network: String::new(),
            name: String::new(),
            issued_ms: 0,
            ttl_ms: 0,
            total: self.host.total(),
            free: self.host.free().clone(),
            runtimes: self.host.working_runtimes(),
            labels: {
                let mut labels = self.config.labels.clone();
                labels.extend(
                    self.host
                        .rules()
                        .map(|rules| rules.labels.clone())
                        .unwrap_or_default(),
                );
                labels
            },
            images: Vec::new(),
            // Its own jobs may run here at any time, with whatever the machine has.
            closed: None,
            away: self.host.away(),
            features: self.host.own_features(),
            running: self.host.running(),
            queued: self.host.queued(),
        });
        self.peers.set_own(own);
    }
}
