//! Instances: what they are, and how they come from one state to the next. Launching them is in `launch`.

use super::attach::Phase;
use super::effects::{Boot, Effect, Rule};
use super::select::Consistency;
use super::tags::Tags;
use super::time::Millis;
use super::types::Type;
use super::{Cloud, Context, done};
use crate::error::{Answer, ApiError};
use crate::query::params::Params;
use crate::query::xml::Value;

/// An instance.
#[derive(Debug, Clone)]
pub(crate) struct Instance {
    pub(crate) id: String,
    /// Its number in this cloud.
    pub(crate) number: u32,
    pub(crate) reservation: String,
    /// Its number in its reservation.
    pub(crate) index: u32,
    pub(crate) image: String,
    pub(crate) architecture: String,
    pub(crate) virtualization: String,
    pub(crate) ena: bool,
    pub(crate) root_device: String,
    pub(crate) kind: &'static Type,
    pub(crate) zone: String,
    pub(crate) subnet: String,
    pub(crate) address: String,
    pub(crate) public: Option<String>,
    /// Whether it gets a public address when it starts.
    pub(crate) wants_public: bool,
    pub(crate) mac: String,
    pub(crate) interface: String,
    pub(crate) groups: Vec<String>,
    /// What its firewall was last told, while it has one.
    pub(crate) filtered: Option<Vec<Rule>>,
    pub(crate) key: Option<String>,
    /// As it was given, in base64.
    pub(crate) user_data: Option<String>,
    pub(crate) profile: Option<String>,
    pub(crate) metadata: Metadata,
    pub(crate) spot: bool,
    /// A notice that a spot instance will be taken away, and when.
    pub(crate) interruption: Option<Millis>,
    pub(crate) terminate_on_shutdown: bool,
    pub(crate) protected: bool,
    pub(crate) monitoring: bool,
    pub(crate) ebs_optimized: bool,
    pub(crate) token: Option<String>,
    pub(crate) launched: Millis,
    pub(crate) state: State,
    pub(crate) reason: Option<(String, String)>,
    /// When its state may be left.
    ready: Millis,
    /// Whether what its state waits for has happened.
    done: bool,
    /// Whether it was told to boot.
    booting: bool,
    /// Since when it runs.
    pub(crate) running_since: Millis,
    ended: Millis,
    pub(crate) tags: Tags,
    pub(crate) consistency: Consistency,
}

/// What may be asked of the metadata service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Metadata {
    pub(crate) token_required: bool,
    pub(crate) enabled: bool,
    pub(crate) hop_limit: u8,
    pub(crate) tags: bool,
}

/// An instance's state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    Pending,
    Running,
    ShuttingDown,
    Terminated,
    Stopping,
    Stopped,
}

impl State {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Running => "running",
            Self::ShuttingDown => "shutting-down",
            Self::Terminated => "terminated",
            Self::Stopping => "stopping",
            Self::Stopped => "stopped",
        }
    }

    pub(crate) fn code(self) -> u32 {
        match self {
            Self::Pending => 0,
            Self::Running => 16,
            Self::ShuttingDown => 32,
            Self::Terminated => 48,
            Self::Stopping => 64,
            Self::Stopped => 80,
        }
    }

    /// Whether it holds nothing any more.
    pub(crate) fn gone(self) -> bool {
        self == Self::Terminated
    }

    pub(crate) fn show(self) -> Value {
        Value::of([("code", self.code().into()), ("name", self.name().into())])
    }
}

/// What `launch` has found out about an instance that is about to be.
pub(super) struct NewInstance {
    pub(super) image: String,
    pub(super) architecture: String,
    pub(super) virtualization: String,
    pub(super) ena: bool,
    pub(super) root_device: String,
    pub(super) kind: &'static Type,
    pub(super) zone: String,
    pub(super) subnet: String,
    pub(super) wants_public: bool,
    pub(super) groups: Vec<String>,
    pub(super) key: Option<String>,
    pub(super) user_data: Option<String>,
    pub(super) profile: Option<String>,
    pub(super) metadata: Metadata,
    pub(super) spot: bool,
    pub(super) terminate_on_shutdown: bool,
    pub(super) protected: bool,
    pub(super) monitoring: bool,
    pub(super) ebs_optimized: bool,
    pub(super) token: Option<String>,
    pub(super) tags: Tags,
}

fn changed(id: &str, before: State, after: State) -> Value {
    Value::of([("instanceId", id.into()), ("currentState", after.show()), ("previousState", before.show())])
}

impl Cloud {
    /// An instance that can be seen.
    pub(crate) fn instance(&self, id: &str, now: Millis) -> Answer<&Instance> {
        self.instances.get(id).filter(|i| i.consistency.seen(now)).ok_or_else(|| {
            let hex = id.strip_prefix("i-").unwrap_or_default();
            if !hex.is_empty() && hex.bytes().all(|b| b.is_ascii_hexdigit()) {
                ApiError::new("InvalidInstanceID.NotFound", format!("The instance ID '{id}' does not exist"))
            } else {
                ApiError::new("InvalidInstanceID.Malformed", format!("Invalid id: \"{id}\""))
            }
        })
    }

    /// The instances that a call names.
    fn named(&self, params: &Params, now: Millis) -> Answer<Vec<(String, State)>> {
        let ids = params.texts("InstanceId");
        if ids.is_empty() {
            return Err(ApiError::missing("InstanceId"));
        }
        ids.iter().map(|id| self.instance(id, now).map(|i| (id.clone(), i.state))).collect()
    }

    /// Adds a pending instance with the volumes that have been made for it.
    pub(super) fn add_instance(
        &mut self,
        new: &NewInstance,
        (reservation, index): (&str, u32),
        number: u32,
        now: Millis,
    ) -> Answer<String> {
        let subnet = self.subnet(&new.subnet)?;
        let id = self.ids.make("i");
        let address = subnet.address(number);
        let n: Vec<u8> = address.split('.').filter_map(|p| p.parse().ok()).collect();
        let mac = n.iter().fold("0e:c2".to_owned(), |mac, byte| format!("{mac}:{byte:02x}"));
        let instance = Instance {
            id: id.clone(),
            number,
            reservation: reservation.to_owned(),
            index,
            image: new.image.clone(),
            architecture: new.architecture.clone(),
            virtualization: new.virtualization.clone(),
            ena: new.ena,
            root_device: new.root_device.clone(),
            kind: new.kind,
            zone: new.zone.clone(),
            subnet: new.subnet.clone(),
            address,
            public: None,
            wants_public: new.wants_public,
            mac,
            interface: self.ids.make("eni"),
            groups: new.groups.clone(),
            filtered: None,
            key: new.key.clone(),
            user_data: new.user_data.clone(),
            profile: new.profile.clone(),
            metadata: new.metadata.clone(),
            spot: new.spot,
            interruption: None,
            terminate_on_shutdown: new.terminate_on_shutdown,
            protected: new.protected,
            monitoring: new.monitoring,
            ebs_optimized: new.ebs_optimized,
            token: new.token.clone(),
            launched: now,
            state: State::Pending,
            reason: None,
            ready: now + self.config.delays.pending,
            done: false,
            booting: false,
            running_since: 0,
            ended: 0,
            tags: new.tags.clone(),
            consistency: Consistency { visible: now + self.config.delays.visibility },
        };
        self.instances.insert(id.clone(), instance);
        self.give_public(&id, now);
        Ok(id)
    }

    /// Gives an instance the lowest public address that is free.
    fn give_public(&mut self, id: &str, now: Millis) {
        let front = self.config.public_front().unwrap_or("203.0.113").to_owned();
        let free = (1..=254)
            .map(|n| format!("{front}.{n}"))
            .find(|a| !self.instances.values().any(|i| i.public.as_ref() == Some(a)));
        if let Some(i) = self.instances.get_mut(id)
            && i.wants_public
            && let Some(address) = free
        {
            self.bill.open("address", id, "in-use", (1.0, "address"), now);
            i.public = Some(address);
        }
    }

    fn take_public(&mut self, id: &str, now: Millis) {
        if let Some(i) = self.instances.get_mut(id)
            && i.public.take().is_some()
        {
            self.bill.close("address", id, now);
        }
    }

    /// Boots a pending instance as soon as all its volumes have their bytes.
    pub(super) fn boot_when_ready(&mut self, id: &str) {
        let Some(i) = self.instances.get(id) else { return };
        if i.state != State::Pending || i.booting || !self.volumes_of(id).all(|v| v.made) {
            return;
        }
        let mut root = None;
        let mut volumes = Vec::new();
        for v in self.volumes_of(id) {
            let Some(a) = &v.attachment else { continue };
            if a.device == i.root_device {
                root = Some((v.id.clone(), v.shared.then(|| v.snapshot.clone()).flatten()));
            } else {
                volumes.push((v.id.clone(), a.names.clone()));
            }
        }
        let Some((root, shared)) = root else { return };
        let rules = self.rules_for(&i.groups);
        let boot = Boot {
            instance: i.id.clone(),
            number: i.number,
            address: i.address.clone(),
            public: i.public.clone(),
            root,
            shared,
            volumes,
            rules: rules.clone(),
            thousandths: self.config.processors.get(i.kind.name).map(|share| (share * 1000.0).round() as u32),
        };
        if let Some(i) = self.instances.get_mut(id) {
            (i.booting, i.filtered) = (true, Some(rules));
        }
        self.effects.push(Effect::Boot(Box::new(boot)));
    }

    pub(super) fn instance_booted(&mut self, id: &str) {
        if let Some(i) = self.instances.get_mut(id)
            && i.state == State::Pending
        {
            i.done = true;
        }
        let ids: Vec<String> = self.volumes_of(id).map(|v| v.id.clone()).collect();
        for v in ids {
            self.volume_attached(&v);
        }
    }

    /// Something went wrong on the cloud's side: the instance ends.
    pub(super) fn instance_failed(&mut self, id: &str, why: &str, now: Millis) {
        let reason =
            ("Server.InternalError".to_owned(), format!("Server.InternalError: Internal error on launch: {why}"));
        self.end_instance(id, reason, now);
    }

    /// Begins an instance's end.
    fn end_instance(&mut self, id: &str, reason: (String, String), now: Millis) {
        let wait = self.config.delays.shutting_down;
        let Some(i) = self.instances.get_mut(id) else { return };
        if matches!(i.state, State::ShuttingDown | State::Terminated) {
            return;
        }
        (i.state, i.done, i.ready, i.reason) = (State::ShuttingDown, false, now + wait, Some(reason));
        i.filtered = None;
        self.bill.close("instance", id, now);
        self.effects.push(Effect::Remove { instance: id.to_owned() });
    }

    /// Begins a stop; `done` when it has already happened.
    fn begin_stop(&mut self, id: &str, reason: (&str, &str), done: bool, now: Millis) {
        let wait = self.config.delays.stopping;
        if let Some(i) = self.instances.get_mut(id) {
            (i.state, i.done, i.ready) = (State::Stopping, done, now + wait);
            i.reason = Some((reason.0.to_owned(), reason.1.to_owned()));
            i.filtered = None;
            self.bill.close("instance", id, now);
        }
    }

    pub(super) fn instance_halted(&mut self, id: &str, now: Millis) {
        let Some(i) = self.instances.get_mut(id) else { return };
        let by_itself =
            ("Client.InstanceInitiatedShutdown", "Client.InstanceInitiatedShutdown: Instance initiated shutdown");
        match i.state {
            State::Stopping => i.done = true,
            State::Pending if !i.booting => {}
            State::Pending | State::Running if i.terminate_on_shutdown => {
                self.end_instance(id, (by_itself.0.to_owned(), by_itself.1.to_owned()), now);
            }
            State::Pending | State::Running => self.begin_stop(id, by_itself, true, now),
            State::ShuttingDown | State::Terminated | State::Stopped => {}
        }
    }

    pub(super) fn instance_removed(&mut self, id: &str) {
        if let Some(i) = self.instances.get_mut(id)
            && i.state == State::ShuttingDown
        {
            i.done = true;
        }
    }

    /// What a terminated instance held is let go.
    fn let_go(&mut self, id: &str, now: Millis) {
        self.take_public(id, now);
        let volumes: Vec<(String, bool)> = self
            .volumes_of(id)
            .filter_map(|v| v.attachment.as_ref().map(|a| (v.id.clone(), a.delete_on_termination)))
            .collect();
        for (volume, delete) in volumes {
            if delete {
                self.forget_volume(&volume, now);
            } else if let Some(v) = self.volumes.get_mut(&volume) {
                v.attachment = None;
            }
        }
    }

    pub(super) fn advance_instances(&mut self, now: Millis) {
        let mut let_go = Vec::new();
        let mut stopped = Vec::new();
        let mut interrupted = Vec::new();
        for i in self.instances.values_mut() {
            if i.interruption.is_some_and(|at| now >= at) {
                interrupted.push(i.id.clone());
            }
            if !i.done || now < i.ready {
                continue;
            }
            match i.state {
                State::Pending => {
                    (i.state, i.running_since, i.done) = (State::Running, now, false);
                    let market = if i.spot { "spot" } else { "on-demand" };
                    self.bill.open("instance", &i.id, format!("{} {market}", i.kind.name), (1.0, "instance"), now);
                }
                State::Stopping => {
                    (i.state, i.booting, i.done) = (State::Stopped, false, false);
                    stopped.push(i.id.clone());
                }
                State::ShuttingDown => {
                    (i.state, i.ended) = (State::Terminated, now);
                    let_go.push(i.id.clone());
                }
                State::Running | State::Terminated | State::Stopped => {}
            }
        }
        for id in stopped {
            self.take_public(&id, now);
        }
        let refilter = !let_go.is_empty();
        for id in let_go {
            self.let_go(&id, now);
        }
        if refilter {
            self.refilter();
        }
        for id in interrupted {
            if let Some(i) = self.instances.get_mut(&id) {
                i.interruption = None;
            }
            let why = "Server.SpotInstanceTermination";
            self.end_instance(&id, (why.to_owned(), format!("{why}: Spot instance termination")), now);
        }
        let kept = self.config.delays.terminated;
        self.instances.retain(|_, i| i.state != State::Terminated || now < i.ended + kept);
    }

    /// Gives a spot instance notice.
    pub(crate) fn interrupt(&mut self, id: &str, at: Millis, now: Millis) -> Answer<()> {
        self.instance(id, now)?;
        match self.instances.get_mut(id) {
            Some(i) if i.spot && matches!(i.state, State::Pending | State::Running) => {
                i.interruption = Some(at);
                Ok(())
            }
            _ => Err(ApiError::new("IncorrectInstanceState", format!("{id} is not a running spot instance"))),
        }
    }

    pub(super) fn stop_instances(&mut self, params: &Params, context: &Context<'_>) -> Answer<Value> {
        let all = self.named(params, context.now)?;
        let force = params.flag("Force")?.unwrap_or(false);
        params.flag("SkipOsShutdown")?;
        for (id, state) in &all {
            if self.instances[id].spot {
                let message = format!(
                    "You can't stop the Spot Instance '{id}' because it is associated with a one-time Spot Instance request."
                );
                return Err(ApiError::new("UnsupportedOperation", message));
            }
            if !matches!(state, State::Running | State::Stopping | State::Stopped) {
                let message = format!("This instance '{id}' is not in a state from which it can be stopped.");
                return Err(ApiError::new("IncorrectInstanceState", message));
            }
        }
        params.finish()?;
        let user = ("Client.UserInitiatedShutdown", "Client.UserInitiatedShutdown: User initiated shutdown");
        let mut answers = Vec::new();
        for (id, before) in all {
            if before == State::Running {
                self.begin_stop(&id, user, false, context.now);
            }
            if before == State::Running || (before == State::Stopping && force) {
                self.effects.push(Effect::Halt { instance: id.clone(), force });
            }
            answers.push(changed(&id, before, self.instances[&id].state));
        }
        Ok(Value::of([("instancesSet", answers.into())]))
    }

    pub(super) fn start_instances(&mut self, params: &Params, context: &Context<'_>) -> Answer<Value> {
        let all = self.named(params, context.now)?;
        for (id, state) in &all {
            if !matches!(state, State::Running | State::Pending | State::Stopped) {
                let message = format!("The instance '{id}' is not in a state from which it can be started.");
                return Err(ApiError::new("IncorrectInstanceState", message));
            }
            let i = &self.instances[id];
            if *state == State::Stopped
                && !self.volumes_of(id).any(|v| v.attachment.as_ref().is_some_and(|a| a.device == i.root_device))
            {
                let message = format!(
                    "Invalid value '{id}' for instanceId. Instance does not have a volume attached at root ({})",
                    i.root_device
                );
                return Err(ApiError::new("IncorrectInstanceState", message));
            }
            if *state == State::Stopped {
                self.room(i.kind, &i.zone, i.spot, 1)?;
            }
        }
        params.finish()?;
        let mut answers = Vec::new();
        for (id, before) in all {
            if before == State::Stopped {
                let ready = context.now + self.config.delays.pending;
                if let Some(i) = self.instances.get_mut(&id) {
                    (i.state, i.done, i.ready, i.reason, i.booting) = (State::Pending, false, ready, None, false);
                    i.launched = context.now;
                }
                self.give_public(&id, context.now);
                self.boot_when_ready(&id);
            }
            answers.push(changed(&id, before, self.instances[&id].state));
        }
        Ok(Value::of([("instancesSet", answers.into())]))
    }

    pub(super) fn reboot_instances(&mut self, params: &Params, context: &Context<'_>) -> Answer<Value> {
        let all = self.named(params, context.now)?;
        for (id, state) in &all {
            if *state != State::Running {
                let message = format!("This instance '{id}' is not in a state from which it can be rebooted.");
                return Err(ApiError::new("IncorrectInstanceState", message));
            }
        }
        params.finish()?;
        for (instance, _) in all {
            self.effects.push(Effect::Reboot { instance });
        }
        Ok(done())
    }

    pub(super) fn terminate_instances(&mut self, params: &Params, context: &Context<'_>) -> Answer<Value> {
        let all = self.named(params, context.now)?;
        params.flag("Force")?;
        params.flag("SkipOsShutdown")?;
        if let Some((id, _)) = all.iter().find(|(id, state)| self.instances[id].protected && !state.gone()) {
            let message = format!(
                "The instance '{id}' may not be terminated. Modify its 'disableApiTermination' instance attribute and try again."
            );
            return Err(ApiError::new("OperationNotPermitted", message));
        }
        params.finish()?;
        let mut answers = Vec::new();
        for (id, before) in all {
            let why = "Client.UserInitiatedShutdown";
            self.end_instance(&id, (why.to_owned(), format!("{why}: User initiated shutdown")), context.now);
            answers.push(changed(&id, before, self.instances[&id].state));
        }
        Ok(Value::of([("instancesSet", answers.into())]))
    }

    /// Whether a phase of an attachment is over, for the instance's own description.
    pub(super) fn attachment_status(phase: Phase) -> &'static str {
        match phase {
            Phase::Busy => "detaching",
            other => other.name(),
        }
    }
}
