//! From what is configured to what the stages are told: each crate has settings of its own, and only here are they
//! known to each other.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context;
use tidegate_domain::delivery::{Request, SealedMessage, Window};
use tidegate_domain::limits;
use tidegate_domain::outcome::{MessageCounts, Severity, StateChange, reason};
use tidegate_domain::series::SeriesFilter;
use tidegate_domain::{Arrival, BatchOutcome, Identity};
use tidegate_ingest as ingest;
use tidegate_ingest::{Occurrence, SourceEvent};
use tidegate_pipeline as pipeline;
use tidegate_pipeline::decode::{As, DecodeConfig, Decoder, IdentityField, TimeUnit};
use tidegate_pipeline::{
    Buses, CodeOrigin, DecoderConfig, DriverConfig, Grant, LoadedModule, ModuleDecoder,
    ModuleDriver, OnFailure, Pipeline, Runtime, RuntimeConfig, Secret, SlotConfig, SlotLimits,
    grants,
};
use tidegate_store as store;
use tidegate_store::{Measures, SourceGap};
use tidegate_tls::Tls;
use tidegate_uplink as uplink;
use tidegate_uplink::OutboxError;

use crate::brought::Brought;
use crate::config::{self, Config};
use crate::duplicates::Duplicates;
use crate::worker::SourceDecoder;
use crate::writer::ToWriter;
use crate::{clock, modules, rollouts, wiring};

/// Sources and pipelines that belong together: whoever shares a pipeline shares a worker.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Group {
    /// Indices into the configuration's sources.
    pub(crate) sources: Vec<usize>,
    /// Indices into the configuration's pipelines.
    pub(crate) pipelines: Vec<usize>,
}

impl Group {
    /// The pipelines that read a source, as indices into [`Group::pipelines`].
    pub(crate) fn readers_of(&self, config: &Config, source: usize) -> Vec<usize> {
        let reads = |pipeline: usize| config.pipelines[pipeline].from.contains(&source);
        (0..self.pipelines.len())
            .filter(|&index| reads(self.pipelines[index]))
            .collect()
    }
}

/// The connected sets of sources and pipelines, in the configuration's order. Every source is in one.
pub(crate) fn connected(config: &Config) -> Vec<Group> {
    let mut groups: Vec<Group> = (0..config.sources.len())
        .map(|source| Group {
            sources: vec![source],
            ..Group::default()
        })
        .collect();
    for (index, pipeline) in config.pipelines.iter().enumerate() {
        let (readers, others): (Vec<Group>, Vec<Group>) = groups.into_iter().partition(|group| {
            group
                .sources
                .iter()
                .any(|source| pipeline.from.contains(source))
        });
        let mut merged = Group::default();
        for group in readers {
            merged.sources.extend(group.sources);
            merged.pipelines.extend(group.pipelines);
        }
        merged.sources.sort_unstable();
        merged.pipelines.sort_unstable();
        merged.pipelines.push(index);
        groups = others;
        groups.push(merged);
    }
    groups.sort_by_key(|group| group.sources.first().copied());
    groups
}

/// What the store is told.
pub(crate) fn store_config(config: &Config) -> anyhow::Result<store::StoreConfig> {
    Ok(store::StoreConfig {
        path: wiring::database(config),
        boot: clock::boot_id(),
        max_bytes: config.store.max_size,
        full: match config.store.full {
            config::Full::Evict => store::Full::Evict,
            config::Full::Stop => store::Full::Stop,
        },
        max_age: config.store.max_age,
        linger: config.store.linger,
        lateness: limits::LATENESS,
        sources: config
            .sources
            .iter()
            .map(|source| source.name.clone())
            .collect(),
        identity_windows: config
            .sources
            .iter()
            .map(|source| {
                source
                    .identity
                    .as_ref()
                    .map_or(0, |identity| identity.window as usize)
            })
            .collect(),
        pipelines: config
            .pipelines
            .iter()
            .map(|pipeline| store::PipelineConfig {
                name: pipeline.name.clone(),
                window: pipeline.summary.as_ref().map(|summary| summary.window),
                keep_input: pipeline.keep_input,
                to: pipeline.to.iter().map(route).collect(),
            })
            .collect(),
        uplinks: config
            .uplinks
            .iter()
            .map(|uplink| store::UplinkConfig {
                max_message_bytes: uplink.max_message,
                max_message_items: uplink.max_items,
                linger: uplink.linger,
                ..store::UplinkConfig::new(uplink.name.clone())
            })
            .collect(),
        measures: measures(config)?,
        alarm_limits: config.alarms,
        silence: silence(config)?,
    })
}

/// Which silence of a series counts, and who hears of it.
fn silence(config: &Config) -> anyhow::Result<store::SilenceConfig> {
    let source = |(index, source): (usize, &config::Source)| {
        let readers = config
            .pipelines
            .iter()
            .filter(|pipeline| pipeline.from.contains(&index));
        let uplinks: BTreeSet<usize> = readers
            .flat_map(|pipeline| pipeline.to.iter().map(|route| route.uplink))
            .collect();
        store::SourceSilence {
            after: source.stale_after,
            alarm: source.stale_alarm,
            uplinks: uplinks.into_iter().collect(),
        }
    };
    // A description that says nothing of alarms hides those after it, as with everything that it describes.
    let first_says: Vec<(String, Option<Option<Severity>>)> = config
        .series
        .iter()
        .map(|series| (series.glob.clone(), series.stale_alarm))
        .collect();
    Ok(store::SilenceConfig {
        sources: config.sources.iter().enumerate().map(source).collect(),
        series: store::SeriesAlarms::new(first_says).context("[series]")?,
    })
}

/// What series measure.
pub(crate) fn measures(config: &Config) -> anyhow::Result<Measures> {
    let measures = config
        .series
        .iter()
        .filter_map(|series| Some((series.glob.clone(), series.measure.clone()?)))
        .collect();
    Measures::new(measures).context("[series]")
}

fn route(route: &config::Route) -> store::Route {
    store::Route {
        uplink: route.uplink,
        send: match route.send {
            config::Send::Summary => store::Send::Summary,
            config::Send::Readings => store::Send::Readings,
            config::Send::Both => store::Send::Both,
        },
        priority: route.priority,
    }
}

/// The TLS of a broker's connection, if it is to have any, with its files read.
pub(crate) fn tls(broker: &config::Broker) -> anyhow::Result<Option<Arc<Tls>>> {
    let tls = broker.tls.clone().map(Tls::new).transpose()?;
    Ok(tls.map(Arc::new))
}

/// The TLS of each of an uplink's brokers: the same files, and each broker's own name in its certificate.
pub(crate) fn uplink_tls(uplink: &config::Uplink) -> anyhow::Result<Vec<Option<Arc<Tls>>>> {
    let tls = uplink.addresses().enumerate().map(|(turn, (host, _))| {
        let mut broker = uplink.broker.clone();
        if let (Some(tls), 1..) = (&mut broker.tls, turn) {
            tls.server_name = host.to_owned();
        }
        tls(&broker)
    });
    tls.collect()
}

/// What an MQTT source is told. `had_session`: whether a broker is expected to know us.
pub(crate) fn mqtt_config(
    source: &config::Source,
    mqtt: &config::MqttSource,
    index: usize,
    tls: Option<&Arc<Tls>>,
    had_session: bool,
) -> ingest::MqttConfig {
    let broker = &mqtt.broker;
    ingest::MqttConfig {
        index,
        name: source.name.clone(),
        host: broker.host.clone(),
        port: broker.port,
        transport: tls.map_or(ingest::Transport::Tcp, |tls| {
            ingest::Transport::Tls(Arc::clone(tls))
        }),
        version: match broker.version {
            config::MqttVersion::V311 => ingest::Version::V311,
            config::MqttVersion::V5 => ingest::Version::V5,
        },
        client_id: broker.client_id.clone(),
        subscribe: mqtt
            .subscribe
            .iter()
            .map(|subscription| ingest::Subscription {
                filter: subscription.topic.clone(),
                qos: if subscription.qos == 0 {
                    ingest::Qos::AtMostOnce
                } else {
                    ingest::Qos::AtLeastOnce
                },
            })
            .collect(),
        credentials: broker.username.as_ref().map(|username| {
            let password = broker
                .password
                .as_ref()
                .map(|password| password.expose().clone().into_bytes());
            ingest::Credentials::new(username.clone(), password)
        }),
        in_flight: mqtt.in_flight,
        keep_alive: broker.keep_alive,
        session_expiry: mqtt.session_expiry,
        had_session,
        identity: source.identity.as_ref().and_then(property),
    }
}

/// What a serial source is told.
pub(crate) fn serial_config(
    source: &config::Source,
    serial: &config::SerialSource,
    index: usize,
) -> ingest::SerialConfig {
    ingest::SerialConfig {
        index,
        name: source.name.clone(),
        port: serial.port.clone(),
        framing: serial.framing.clone(),
        longest: serial.longest,
        pause: serial.pause,
        initial: serial.initial.clone(),
        query: serial.query.clone(),
    }
}

/// What a Modbus source is told.
pub(crate) fn modbus_config(
    source: &config::Source,
    modbus: &config::ModbusSource,
    index: usize,
) -> ingest::ModbusConfig {
    ingest::ModbusConfig {
        index,
        name: source.name.clone(),
        line: modbus.line.clone(),
        groups: modbus.groups.clone(),
    }
}

/// What a source of what the kernel measures is told, and what reads it.
pub(crate) fn sysfs_config(
    source: &config::Source,
    sysfs: &config::SysfsSource,
    index: usize,
) -> (ingest::PolledConfig, ingest::SysfsReader) {
    let config = ingest::PolledConfig {
        index,
        name: source.name.clone(),
        device: sysfs.root.display().to_string(),
        interval: sysfs.interval,
    };
    let (root, devices) = (sysfs.root.clone(), sysfs.devices.clone());
    let reader = ingest::SysfsReader::new(sysfs.kind, &source.name, root, devices);
    (config, reader)
}

/// What a driver's source is told.
pub(crate) fn driver_config(
    source: &config::Source,
    driver: &config::DriverSource,
    index: usize,
) -> ingest::PolledConfig {
    ingest::PolledConfig {
        index,
        name: source.name.clone(),
        device: shown_buses(driver),
        interval: driver.interval,
    }
}

/// What a driver reaches, for people.
pub(crate) fn shown_buses(driver: &config::DriverSource) -> String {
    let handed = driver.handed.iter().map(|handed| handed.grant.shown());
    handed.collect::<Vec<String>>().join(", ")
}

/// The grants that what a source hands in stands for.
pub(crate) fn handed(driver: &config::DriverSource) -> impl Iterator<Item = Grant> {
    driver.handed.iter().map(|handed| match handed.grant {
        config::BusGrant::I2c { .. } => Grant::I2c,
        config::BusGrant::Spi { .. } => Grant::Spi,
        config::BusGrant::Gpio { .. } => Grant::Gpio,
        config::BusGrant::Uart { .. } => Grant::Uart,
    })
}

/// A source's driver, with the buses that the source hands in.
pub(crate) fn driver(
    config: &Config,
    source: &config::Source,
    driver: &config::DriverSource,
    runtime: &Runtime,
    loaded: &BTreeMap<String, Arc<LoadedModule>>,
    state: &BTreeMap<String, StateChange>,
) -> anyhow::Result<ModuleDriver> {
    let module = loaded
        .get(&driver.module)
        .context("every named module was loaded")?;
    let key = ModuleDriver::state_key(&source.name, &module.manifest.name);
    let driver = ModuleDriver::new(
        runtime,
        DriverConfig {
            source: source.name.clone(),
            module: Arc::clone(module),
            settings: driver.settings.clone(),
            limits: SlotLimits::granted(
                &module.manifest.limits,
                &driver.limits.ceiling(&config.policy.limits),
            ),
            grants: grants::granted(&module.manifest, &policy(config)?, false),
            buses: buses(driver),
            timeout: driver.timeout,
        },
        state.get(&key),
    );
    driver.with_context(|| format!("source `{}`", source.name))
}

/// The devices themselves. None is opened yet.
fn buses(driver: &config::DriverSource) -> Buses {
    let mut buses = Buses::default();
    for config::Handed { name, grant } in &driver.handed {
        #[cfg(feature = "test-faults")]
        if crate::faults::simulated::hand(&mut buses, name, grant) {
            continue;
        }
        match grant {
            config::BusGrant::I2c { device, address } => {
                buses.i2c(name, *address, ingest::LinuxI2c::new(device.clone()));
            }
            config::BusGrant::Spi {
                device,
                speed,
                mode,
            } => buses.spi(name, ingest::LinuxSpi::new(device.clone(), *speed, *mode)),
            config::BusGrant::Gpio {
                chip,
                line,
                output: false,
                active_low,
                bias,
            } => buses.input(
                name,
                ingest::LinuxPin::input(chip.clone(), *line, *active_low, *bias),
            ),
            config::BusGrant::Gpio {
                chip,
                line,
                active_low,
                ..
            } => buses.output(
                name,
                ingest::LinuxPin::output(chip.clone(), *line, *active_low),
            ),
            config::BusGrant::Uart { port, timeout } => {
                buses.uart(name, ingest::LinuxUart::new(port.clone(), *timeout));
            }
        }
    }
    buses
}

/// The property that identifies a source's messages, where one does.
fn property(identity: &config::Identity) -> Option<ingest::Property> {
    match &identity.by {
        config::IdentityBy::Field(_) => None,
        config::IdentityBy::Property(name) if name == config::CORRELATION_DATA => {
            Some(ingest::Property::CorrelationData)
        }
        config::IdentityBy::Property(name) => Some(ingest::Property::User(name.clone())),
    }
}

/// Messages that a source sends without an acknowledgement; 0 where it waits for none.
pub(crate) fn receive_window(source: &config::Source) -> u32 {
    let mqtt = match &source.kind {
        config::SourceKind::Mqtt(mqtt) => mqtt,
        // Nobody waits for its acknowledgements.
        config::SourceKind::Serial(_)
        | config::SourceKind::Modbus(_)
        | config::SourceKind::Sysfs(_)
        | config::SourceKind::Driver(_) => return 0,
    };
    match mqtt.broker.version {
        config::MqttVersion::V311 => u32::from(mqtt.in_flight),
        config::MqttVersion::V5 => u32::from(ingest::RECEIVE_MAXIMUM),
    }
}

/// What an uplink is told.
pub(crate) fn uplink_config(
    config: &Config,
    index: usize,
    tls: &[Option<Arc<Tls>>],
    modules: &[Arc<LoadedModule>],
) -> uplink::MqttUplinkConfig {
    let uplink = &config.uplinks[index];
    let broker = &uplink.broker;
    let version = match broker.version {
        config::MqttVersion::V311 => uplink::Version::V311,
        config::MqttVersion::V5 => uplink::Version::V5,
    };
    uplink::MqttUplinkConfig {
        index,
        name: uplink.name.clone(),
        gateway: config.gateway.id.clone(),
        brokers: uplink
            .addresses()
            .zip(tls)
            .map(|((host, port), tls)| uplink::Broker {
                host: host.to_owned(),
                port,
                transport: tls.as_ref().map_or(uplink::Transport::Plain, |tls| {
                    uplink::Transport::Tls(Arc::clone(tls))
                }),
            })
            .collect(),
        failback: uplink.failback,
        version,
        client_id: broker.client_id.clone(),
        credentials: broker.username.clone().map(|username| uplink::Credentials {
            username,
            password_file: broker.password_file.clone(),
        }),
        topic: uplink.topic.clone(),
        keep_alive: broker.keep_alive,
        in_flight: Window {
            messages: usize::from(uplink.in_flight),
            bytes: uplink.in_flight_bytes,
        },
        rate_limit: uplink.rate_limit,
        live_share: uplink.live_share,
        encoding: uplink.encoding,
        // A message is sealed at `max_message`; a single item above it makes one of its own. Room for the envelope. It is
        // what the README says that a receiver must take.
        max_packet: uplink.max_message + 2 * limits::OUTBOX_ITEM_BYTES,
        reconnect: uplink::Reconnect::default(),
        status: status(store::StoreState::Healthy, clock::now().synced, modules),
    }
}

/// What the retained status message says.
pub(crate) fn status(
    store: store::StoreState,
    clock_synced: bool,
    modules: &[Arc<LoadedModule>],
) -> uplink::Status {
    uplink::Status {
        state: match store {
            store::StoreState::Healthy => uplink::StatusState::Online,
            store::StoreState::Degraded
            | store::StoreState::ReadOnly
            | store::StoreState::Full
            | store::StoreState::Corrupt => uplink::StatusState::Degraded,
        },
        store: store.as_str(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        boot: clock::boot_id(),
        clock_synced,
        modules: modules.iter().map(|module| module_status(module)).collect(),
        audit: None,
    }
}

/// A module as the retained status message names it.
fn module_status(module: &LoadedModule) -> serde_json::Value {
    serde_json::json!({
        "name": module.manifest.name,
        "version": module.manifest.version,
        "digest": module.inspection.digest.as_str(),
        "state": "active",
    })
}

/// The uplinks' view of the store.
pub(crate) struct Outbox {
    // A reader is one connection, and SQLite's connections belong to one thread at a time.
    reader: Mutex<store::Reader>,
    streams: Vec<String>,
}

impl Outbox {
    pub(crate) fn new(reader: store::Reader, streams: Vec<String>) -> Self {
        Self {
            reader: Mutex::new(reader),
            streams,
        }
    }

    fn read<T>(
        &self,
        read: impl FnOnce(&mut store::Reader) -> Result<T, store::ReadError>,
    ) -> Result<T, OutboxError> {
        let mut reader = self.reader.lock().unwrap_or_else(PoisonError::into_inner);
        read(&mut reader).map_err(OutboxError::new)
    }
}

impl uplink::Outbox for Outbox {
    fn next(
        &self,
        uplink: usize,
        request: &mut Request,
    ) -> Result<Vec<SealedMessage>, OutboxError> {
        let messages = self.read(|reader| reader.look(uplink, request))?;
        #[cfg(feature = "test-faults")]
        crate::faults::delete_early(uplink, &messages);
        Ok(messages)
    }

    fn last_sealed(&self, uplink: usize) -> Result<u64, OutboxError> {
        self.read(|reader| reader.last_sealed_seq(uplink))
    }

    fn stream(&self, uplink: usize) -> String {
        self.streams[uplink].clone()
    }
}

/// What an event of a source changes in the store; the log hears of it here as well.
pub(crate) fn record(source: &str, event: SourceEvent) -> Vec<ToWriter> {
    let index = event.source;
    match event.what {
        Occurrence::Connected {
            session_present, ..
        } => {
            tracing::info!(source, session_present, "connected");
            Vec::new()
        }
        Occurrence::Disconnected { reason } => {
            tracing::warn!(source, "disconnected: {reason}");
            Vec::new()
        }
        Occurrence::SubscriptionRefused {
            filter,
            code,
            reason,
        } => {
            tracing::error!(
                source,
                filter,
                code,
                "the broker refused the subscription: {reason}"
            );
            Vec::new()
        }
        Occurrence::SubscriptionDowngraded { filter } => {
            tracing::warn!(
                source,
                filter,
                "the broker granted QoS 0 alone: what it loses is lost"
            );
            Vec::new()
        }
        Occurrence::Cut {
            topic,
            length,
            kept,
        } => {
            tracing::warn!(source, %topic, length, kept, "a payload was too long to be held and was cut");
            Vec::new()
        }
        Occurrence::SessionLost { from, to } => {
            tracing::error!(
                source,
                "the broker lost our session: what it held for us is gone, and nobody counted it"
            );
            vec![
                SourceGap {
                    source: index,
                    from: from.unwrap_or(to).wall,
                    to: to.wall,
                    count: None,
                    reason: reason::SESSION_LOST,
                }
                .into(),
            ]
        }
        Occurrence::SlaveLost { unit, reason } => {
            tracing::warn!(
                source,
                unit,
                "the slave does not answer and is asked now and then: {reason}"
            );
            Vec::new()
        }
        Occurrence::SlaveBack { unit } => {
            tracing::info!(source, unit, "the slave answers again");
            Vec::new()
        }
        Occurrence::Refused {
            unit,
            series,
            reason,
        } => {
            let series = series.join(", ");
            tracing::error!(
                source,
                unit,
                series,
                "the slave does not have what the register map says; this is read no more for an hour: {reason}"
            );
            Vec::new()
        }
        Occurrence::Opened { device } => {
            tracing::info!(source, device, "the line is open");
            Vec::new()
        }
        Occurrence::LineErrors {
            frame,
            parity,
            breaks,
            overrun,
        } => {
            tracing::warn!(
                source,
                frame,
                parity,
                breaks,
                overrun,
                "the line has errors: check speed, parity, cable and shield"
            );
            Vec::new()
        }
        Occurrence::Overflow {
            reason,
            messages,
            from,
            to,
            ..
        } => {
            tracing::error!(
                source,
                messages,
                reason,
                "messages came faster than they could be taken in, and cannot wait where they come from"
            );
            vec![
                ToWriter::Input(overflow(index, reason, messages, to)),
                overflow_gap(index, reason, messages, from, to).into(),
            ]
        }
    }
}

/// Dropped messages were received all the same: the ledger counts them as both.
fn overflow(source: usize, reason: &'static str, messages: u64, arrival: Arrival) -> store::Input {
    BatchOutcome {
        source,
        arrival,
        counts: MessageCounts {
            received: messages,
            dropped: BTreeMap::from([(reason, messages)]),
            ..MessageCounts::default()
        },
        ..BatchOutcome::default()
    }
    .into()
}

fn overflow_gap(
    source: usize,
    reason: &'static str,
    messages: u64,
    from: Arrival,
    to: Arrival,
) -> SourceGap {
    SourceGap {
        source,
        from: from.wall,
        to: to.wall,
        count: Some(messages),
        reason,
    }
}

/// What the module runtime is told.
pub(crate) fn runtime_config(config: &Config) -> anyhow::Result<RuntimeConfig> {
    let state = &config.gateway.state_dir;
    let compiler = std::env::current_exe()
        .context("the daemon's own program, which also compiles, cannot be found")?;
    let loading = config.policy.loading;
    Ok(RuntimeConfig {
        compile: loading.compile,
        module_bytes: loading.module_bytes,
        ..RuntimeConfig::new(state.join("cache"), state.join("device-secret"), compiler)
    })
}

/// The modules that the pipelines name, each loaded once.
pub(crate) fn load_modules(
    config: &Config,
    brought: &Brought,
    runtime: &Runtime,
) -> anyhow::Result<BTreeMap<String, Arc<LoadedModule>>> {
    let mut loaded = BTreeMap::new();
    for name in modules::named(config) {
        if loaded.contains_key(name) {
            continue;
        }
        let module =
            LoadedModule::load(runtime, modules::resolve(name, &config.modules, brought)?)?;
        tracing::info!(
            module = module.manifest.name,
            version = module.manifest.version,
            digest = module.inspection.digest.as_str(),
            "loaded {}",
            code(module.code_origin())
        );
        loaded.insert(name.clone(), Arc::new(module));
    }
    Ok(loaded)
}

/// Where a module's native code came from, for the log.
pub(crate) fn code(origin: &CodeOrigin) -> String {
    match origin {
        CodeOrigin::Cache => "from the cache".to_owned(),
        CodeOrigin::Compiled { reason } => format!("and compiled: {reason}"),
    }
}

/// One pipeline's chain, as it is configured.
pub(crate) fn pipeline(
    config: &Config,
    brought: &Brought,
    index: usize,
    runtime: &Runtime,
    loaded: &BTreeMap<String, Arc<LoadedModule>>,
    state: &BTreeMap<String, StateChange>,
) -> anyhow::Result<Pipeline> {
    let pipeline = &config.pipelines[index];
    let policy = policy(config)?;
    let slots = pipeline
        .filters
        .iter()
        .map(|filter| {
            let module = loaded
                .get(&filter.module)
                .context("every named module was loaded")?;
            Ok(slot(filter, brought, module, &policy, &config.policy))
        })
        .collect::<anyhow::Result<Vec<SlotConfig>>>()?;
    let chain = pipeline::PipelineConfig {
        index,
        name: pipeline.name.clone(),
        select: SeriesFilter::new(&pipeline.series)?,
        slots,
    };
    Ok(Pipeline::new(runtime, chain, state)?.keeping_input(pipeline.keep_input.is_some()))
}

/// One slot of a chain.
pub(crate) fn slot(
    filter: &config::Filter,
    brought: &Brought,
    module: &Arc<LoadedModule>,
    policy: &BTreeSet<Grant>,
    site: &config::Policy,
) -> SlotConfig {
    // What the site writes is the ceiling for what the manifest wants.
    let ceiling = filter.limits.ceiling(&site.limits);
    SlotConfig {
        filter: filter.name.clone(),
        module: Arc::clone(module),
        settings: brought.settings(filter),
        on_failure: match filter.on_failure {
            config::OnFailure::Pass => OnFailure::Pass,
            config::OnFailure::Drop => OnFailure::Drop,
            config::OnFailure::Quarantine => OnFailure::Quarantine,
        },
        limits: SlotLimits {
            tick: filter.tick.or(module.manifest.tick()),
            ..SlotLimits::granted(&module.manifest.limits, &ceiling)
        },
        grants: grants::granted(&module.manifest, policy, !filter.secrets.is_empty()),
        directories: grants::directories(&module.manifest, &site.directories),
        secrets: rollouts::secrets(filter),
    }
}

fn module_secrets(named: &BTreeMap<String, config::Secret<Vec<u8>>>) -> BTreeMap<String, Secret> {
    let secrets = named.iter();
    secrets
        .map(|(name, secret)| (name.clone(), Secret::new(secret.expose().clone())))
        .collect()
}

/// What the site lets any module have.
pub(crate) fn policy(config: &Config) -> anyhow::Result<BTreeSet<Grant>> {
    config
        .policy
        .grants
        .iter()
        .map(|grant| grant.parse().context("policy.grants"))
        .collect()
}

/// How a source's duplicates are known; `known` are the identities that the store has. `None` where it gives none.
pub(crate) fn duplicates(
    source: &config::Source,
    known: &[Identity],
) -> anyhow::Result<Option<Duplicates>> {
    let Some(identity) = &source.identity else {
        return Ok(None);
    };
    let field = match &identity.by {
        config::IdentityBy::Field(field) => {
            let (format, _) = format_of(source)
                .with_context(|| format!("source `{}` is decoded by a module", source.name))?;
            let field = IdentityField::new(&format, field);
            Some(field.with_context(|| format!("source `{}`", source.name))?)
        }
        config::IdentityBy::Property(_) => None,
    };
    Ok(Some(Duplicates::new(field, identity.window, known)))
}

/// What payloads are, and where the time in them is; `None` where a module knows.
fn format_of(source: &config::Source) -> Option<(As, Option<&config::EventTime>)> {
    Some(match &source.decode {
        config::Decode::Module(_) => return None,
        config::Decode::Json { time } => (As::Json, time.as_ref()),
        config::Decode::Text => (As::Text, None),
        config::Decode::Lines => (As::Lines, None),
        config::Decode::Regex { pattern, time } => (
            As::Regex {
                pattern: pattern.clone(),
            },
            time.as_ref(),
        ),
        config::Decode::Binary { fields } => (
            As::Binary {
                fields: fields.clone(),
            },
            None,
        ),
        config::Decode::Csv {
            columns,
            separator,
            time,
        } => (
            As::Csv {
                columns: columns.clone(),
                separator: *separator,
            },
            time.as_ref(),
        ),
    })
}

/// How a source's messages become readings.
pub(crate) fn decoder(
    config: &Config,
    source: &config::Source,
    runtime: &Runtime,
    loaded: &BTreeMap<String, Arc<LoadedModule>>,
    state: &BTreeMap<String, StateChange>,
) -> anyhow::Result<SourceDecoder> {
    let Some((format, time)) = format_of(source) else {
        let decoder = decoder_module(config, source, runtime, loaded, state);
        return decoder.with_context(|| format!("source `{}`", source.name));
    };
    let decode = DecodeConfig {
        format,
        time_field: time.map(|time| time.field.clone()),
        time_unit: time.map_or(TimeUnit::Millis, |time| match time.unit {
            config::TimeUnit::Seconds => TimeUnit::Seconds,
            config::TimeUnit::Milliseconds => TimeUnit::Millis,
            config::TimeUnit::Microseconds => TimeUnit::Micros,
            config::TimeUnit::Nanoseconds => TimeUnit::Nanos,
            config::TimeUnit::Rfc3339 => TimeUnit::Rfc3339,
        }),
    };
    let decoder = Decoder::new(decode).with_context(|| format!("source `{}`", source.name))?;
    Ok(SourceDecoder::Native {
        decoder,
        arrival_times: time.is_none(),
    })
}

fn decoder_module(
    config: &Config,
    source: &config::Source,
    runtime: &Runtime,
    loaded: &BTreeMap<String, Arc<LoadedModule>>,
    state: &BTreeMap<String, StateChange>,
) -> anyhow::Result<SourceDecoder> {
    let config::Decode::Module(decoder) = &source.decode else {
        anyhow::bail!("it is decoded by no module");
    };
    let module = loaded
        .get(&decoder.module)
        .context("every named module was loaded")?;
    let key = ModuleDecoder::state_key(&source.name, &module.manifest.name);
    let secrets_named = !decoder.secrets.is_empty();
    let decoder = ModuleDecoder::new(
        runtime,
        DecoderConfig {
            source: source.name.clone(),
            module: Arc::clone(module),
            settings: decoder.settings.clone(),
            limits: SlotLimits::granted(
                &module.manifest.limits,
                &decoder.limits.ceiling(&config.policy.limits),
            ),
            grants: grants::granted(&module.manifest, &policy(config)?, secrets_named),
            directories: grants::directories(&module.manifest, &config.policy.directories),
            secrets: module_secrets(&decoder.secrets),
        },
        state.get(&key),
    )?;
    Ok(SourceDecoder::Module(Box::new(decoder)))
}
