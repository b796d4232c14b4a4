//! Whether what is offered is open: the rules that hold at some times and not at others.
//!
//! The driver tells what it measures ([`Conditions`]), here it is judged. Whatever closes for a
//! measured value opens again at a lower one only, so that a value on the edge does not make the offer
//! flutter.

use p2pnode_protocol::offer::OfferRules;

use crate::core::io::Conditions;

/// How far below its limit a temperature must fall before the offer opens again, in degrees: fans
/// turned up and work taken away move it by a few.
const COOLED_C: i32 = 5;

/// How long nobody must have used the machine, in milliseconds: three minutes, as BOINC has it.
const IDLE_MS: u64 = 180_000;

/// How much of the machine other programs may use for it to count as idle, in percent: as BOINC has it.
const BUSY_PERCENT: u64 = 25;

/// How much it must fall to before the offer opens again, in percent.
const CALM_PERCENT: u64 = 15;

/// The state of the gate: open, or closed and why.
#[derive(Debug, Default)]
pub(super) struct Gate {
    measured: Option<Conditions>,
    closed: Option<Closed>,
}

/// Why the gate is closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rule {
    Unmeasured,
    Schedule,
    InUse,
    Busy,
    Unknown,
    Battery,
    Cpu,
    Gpu,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Closed {
    rule: Rule,
    why: String,
}

impl Gate {
    /// Why it is closed; `None` while it is open.
    pub(super) fn closed(&self) -> Option<&str> {
        self.closed.as_ref().map(|closed| closed.why.as_str())
    }

    /// What was measured.
    pub(super) fn measure(&mut self, conditions: Conditions) {
        self.measured = Some(conditions);
    }

    /// Judges what was measured last by `rules`. True when it closed or opened, or closed for another
    /// reason.
    pub(super) fn judge(&mut self, rules: Option<&OfferRules>) -> bool {
        let before = self.closed.as_ref().map(|closed| closed.rule);
        self.closed = rules
            .filter(|rules| rules.is_conditional())
            .and_then(|rules| first_against(rules, self.measured.as_ref(), before));
        before != self.closed.as_ref().map(|closed| closed.rule)
    }
}

/// The first rule that closes. `before` is the one for which it is closed already.
fn first_against(
    rules: &OfferRules,
    measured: Option<&Conditions>,
    before: Option<Rule>,
) -> Option<Closed> {
    let Some(now) = measured else {
        let why = "what its rules depend on is not measured yet".into();
        return Some(Closed {
            rule: Rule::Unmeasured,
            why,
        });
    };
    let was = |rule| before == Some(rule);
    let closed = |rule, why| Some(Closed { rule, why });
    if let Some(schedule) = &rules.schedule
        && !schedule.is_open(now.minute_of_week)
    {
        let next = schedule.next_opening(now.minute_of_week);
        return closed(
            Rule::Schedule,
            format!("its schedule opens it at {next}, its local time"),
        );
    }
    if rules.not_on_battery && now.on_battery == Some(true) {
        return closed(Rule::Battery, "the machine runs on battery".into());
    }
    if let Some((rule, what, limit, at)) = hot(rules, now, was) {
        let why = format!("its {what} is at {at} °C, and above {limit} °C nothing is taken");
        return closed(rule, why);
    }
    if !rules.only_when_idle {
        return None;
    }
    if now.user_idle_ms.is_none() && now.foreign_percent.is_none() {
        let why =
            "it is offered only when idle, and the machine does not tell whether it is".into();
        return closed(Rule::Unknown, why);
    }
    if now.user_idle_ms.is_some_and(|idle| idle < IDLE_MS) {
        return closed(Rule::InUse, "somebody uses the machine".into());
    }
    let most = if was(Rule::Busy) {
        CALM_PERCENT
    } else {
        BUSY_PERCENT
    };
    if now.foreign_percent.is_some_and(|busy| busy > most) {
        return closed(Rule::Busy, "other programs use the machine".into());
    }
    None
}

/// A temperature above its limit: rule, what, limit, reading.
fn hot(
    rules: &OfferRules,
    now: &Conditions,
    was: impl Fn(Rule) -> bool,
) -> Option<(Rule, &'static str, u16, i32)> {
    let all = [
        (Rule::Cpu, "CPU", rules.max_cpu_c, now.cpu_c),
        (Rule::Gpu, "GPU", rules.max_gpu_c, now.gpu_c),
    ];
    all.into_iter().find_map(|(rule, what, limit, at)| {
        let (limit, at) = (limit?, at?);
        let most = i32::from(limit) - if was(rule) { COOLED_C } else { 0 };
        (at > most).then_some((rule, what, limit, at))
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use p2pnode_protocol::offer::Schedule;

    use super::*;

    fn gate(rules: &OfferRules, conditions: Conditions) -> Gate {
        let mut gate = Gate::default();
        gate.measure(conditions);
        gate.judge(Some(rules));
        gate
    }

    #[test]
    fn without_conditions_it_is_open_and_with_them_closed_until_measured() {
        let mut gate = Gate::default();
        assert!(!gate.judge(Some(&OfferRules::default())));
        assert_eq!(gate.closed(), None);
        let rules = OfferRules {
            not_on_battery: true,
            ..OfferRules::default()
        };
        assert!(gate.judge(Some(&rules)));
        assert!(gate.closed().unwrap().contains("not measured yet"));
        gate.measure(Conditions::default());
        assert!(gate.judge(Some(&rules)));
        assert_eq!(gate.closed(), None, "a machine without a battery");
    }

    #[test]
    fn a_schedule_says_when_it_opens() {
        let schedule: Schedule = "mon-fri 19:00-07:00".parse().unwrap();
        let rules = OfferRules {
            schedule: Some(schedule),
            ..OfferRules::default()
        };
        let at = |minute_of_week| Conditions {
            minute_of_week,
            ..Conditions::default()
        };
        let closed = gate(&rules, at(12 * 60));
        assert!(closed.closed().unwrap().contains("mon 19:00"));
        assert_eq!(gate(&rules, at(20 * 60)).closed(), None);
    }

    #[test]
    fn a_hot_machine_must_cool_down_before_it_opens() {
        let rules = OfferRules {
            max_cpu_c: Some(80),
            max_gpu_c: Some(70),
            ..OfferRules::default()
        };
        let mut gate = Gate::default();
        let mut at = |cpu_c, gpu_c| {
            gate.measure(Conditions {
                cpu_c: Some(cpu_c),
                gpu_c,
                ..Conditions::default()
            });
            let changed = gate.judge(Some(&rules));
            (changed, gate.closed().is_some())
        };
        assert_eq!(at(80, None), (false, false));
        assert_eq!(at(81, None), (true, true));
        assert_eq!(at(78, None), (false, true), "not cool enough yet");
        assert_eq!(at(75, None), (true, false));
        assert_eq!(at(80, Some(71)), (true, true));
        assert_eq!(at(81, Some(20)), (true, true), "the CPU instead");
    }

    #[test]
    fn idle_means_nobody_there_and_nothing_else_running() {
        let rules = OfferRules {
            only_when_idle: true,
            ..OfferRules::default()
        };
        let at = |user_idle_ms, foreign_percent| Conditions {
            user_idle_ms,
            foreign_percent,
            ..Conditions::default()
        };
        assert!(
            gate(&rules, at(None, None))
                .closed()
                .unwrap()
                .contains("does not tell")
        );
        assert!(gate(&rules, at(Some(1_000), Some(0))).closed().is_some());
        assert!(gate(&rules, at(Some(IDLE_MS), Some(26))).closed().is_some());
        assert_eq!(gate(&rules, at(Some(IDLE_MS), Some(25))).closed(), None);
        assert_eq!(gate(&rules, at(None, Some(3))).closed(), None);
        let mut gate = gate(&rules, at(None, Some(30)));
        gate.measure(at(None, Some(20)));
        assert!(!gate.judge(Some(&rules)), "not calm enough yet");
        gate.measure(at(None, Some(15)));
        assert!(gate.judge(Some(&rules)) && gate.closed().is_none());
    }

    #[test]
    fn battery() {
        let rules = OfferRules {
            not_on_battery: true,
            ..OfferRules::default()
        };
        let on = |on_battery| Conditions {
            on_battery,
            ..Conditions::default()
        };
        assert!(gate(&rules, on(Some(true))).closed().is_some());
        assert_eq!(gate(&rules, on(Some(false))).closed(), None);
    }
}
