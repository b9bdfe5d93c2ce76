//! The way up: draining an outbox beside a bare publisher, and how long an alarm takes under load.

use std::fs::File;
use std::io::Write;
use std::time::{Duration, Instant};

use crate::support::{Broker, Daemon, Publisher, Site, wait_for};
use crate::{cpu_seconds, median, per_second};

/// Readings in each message to the daemon.
const READINGS: u64 = 10;
/// Messages on their way up at once, for both.
const WINDOW: u16 = 64;
const ROUNDS: usize = 3;
/// Alarms that are timed.
const ALARMS: u64 = 200;

/// What waits when a drain begins.
struct Backlog {
    /// Messages to the daemon.
    messages: u64,
    /// What the configuration says about the size of those to the cloud.
    size: &'static str,
}

/// As the daemon makes them unless told otherwise, and small ones, for which every step counts.
const BACKLOGS: [Backlog; 2] = [
    Backlog {
        messages: 300_000,
        size: "",
    },
    Backlog {
        messages: 60_000,
        size: "max-message = \"1KiB\"\n",
    },
];

/// Prints the ratio of the daemon's drain to a bare rumqttc publisher of as many messages of the same size with the
/// same window.
pub(crate) fn drain() {
    println!("\ndrain of a backlog, window {WINDOW}, median of {ROUNDS} rounds\n");
    println!(
        "| messages | of bytes | bare rumqttc | CPU a message | daemon | CPU a message | ratio |"
    );
    println!("|---|---|---|---|---|---|---|");
    for backlog in &BACKLOGS {
        let (mut daemon, mut bare) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            let drained = drain_daemon(backlog);
            bare.push(drain_bare(drained.messages, drained.bytes));
            daemon.push(drained);
        }
        let of = |drains: &[Drained], field: fn(&Drained) -> f64| {
            median(drains.iter().map(field).collect())
        };
        let rate = |drains: &[Drained]| of(drains, |drain| drain.rate);
        let cpu = |drains: &[Drained]| of(drains, |drain| drain.cpu_microseconds);
        println!(
            "| {} | {} | {:.0}/s | {:.1} µs | {:.0}/s | {:.1} µs | {:.2} |",
            daemon[0].messages,
            daemon[0].bytes,
            rate(&bare),
            cpu(&bare),
            rate(&daemon),
            cpu(&daemon),
            rate(&daemon) / rate(&bare)
        );
    }
}

struct Drained {
    messages: u64,
    /// Of one message, on the average.
    bytes: usize,
    /// Messages a second.
    rate: f64,
    /// Of the publishing process, for a message.
    cpu_microseconds: f64,
}

fn drain_daemon(backlog: &Backlog) -> Drained {
    let site = Site::new();
    let field = Broker::start(&site, "field");
    let mut cloud = Broker::start_with(&site, "cloud", "allow_anonymous true\npersistence false\n");
    cloud.stop();
    let config = site.write(
        "tidegate.toml",
        &format!(
            "[gateway]\nid = \"bench\"\nstate-dir = \"{}\"\n[store]\nmax-size = \"1GiB\"\n\
             [source.plant]\nkind = \"mqtt\"\nurl = \"{}\"\nversion = \"5\"\nsubscribe = [{{ topic = \"plant/#\" }}]\n\
             [pipeline.all]\nfrom = [\"plant\"]\nto = [{{ uplink = \"cloud\", send = \"readings\" }}]\n\
             [uplink.cloud]\nkind = \"mqtt\"\nurl = \"{}\"\ntopic = \"tidegate/{{gateway}}/{{kind}}\"\nversion = \"5\"\n\
             in-flight = {WINDOW}\nin-flight-bytes = \"16MiB\"\n{}",
            site.path("state").display(),
            field.url(),
            cloud.url(),
            backlog.size,
        ),
    );
    let mut daemon = Daemon::start(&config);
    let members: Vec<String> = (0..READINGS).map(|n| format!("\"m{n}\":{n}")).collect();
    let payload = format!("{{{}}}", members.join(","));
    // mosquitto queues no more than there are packet identifiers.
    for published in (0..backlog.messages).step_by(30_000) {
        field.publish("plant/line1", (0..30_000).map(|_| &payload));
        daemon.wait_received("plant", published + 30_000);
    }
    let uplink = |daemon: &Daemon| daemon.json("/api/v1/uplinks")["items"][0].clone();
    wait_for("a full outbox", || {
        (uplink(&daemon)["waiting"] == backlog.messages * READINGS).then_some(())
    });
    // What was read last is sealed as well by then.
    std::thread::sleep(Duration::from_secs(2));
    let messages = uplink(&daemon)["messages_waiting"].as_u64().unwrap();
    cloud.resume();
    let delivered = |daemon: &Daemon| uplink(daemon)["messages_delivered"].as_u64().unwrap();
    let at_least = |some: u64| loop {
        let delivered = delivered(&daemon);
        if delivered >= some {
            return (Instant::now(), delivered, cpu_seconds(daemon.pid()));
        }
        std::thread::sleep(Duration::from_millis(10));
    };
    let first = at_least(1);
    let last = at_least(messages);
    let up = (last.1 - first.1) as f64;
    let drained = Drained {
        messages,
        // An item of these is about as long as the next; an envelope is some hundred bytes.
        bytes: usize::try_from(item_bytes() * backlog.messages * READINGS / messages).unwrap(),
        rate: up / (last.0 - first.0).as_secs_f64(),
        cpu_microseconds: (last.2 - first.2) / up * 1e6,
    };
    assert_eq!(daemon.stop(), 0);
    drained
}

/// An item as it goes up, and the comma.
fn item_bytes() -> u64 {
    r#"{"pipeline":"all","series":"plant/line1/m1","time":1766000000000,"value":1},"#.len() as u64
}

fn drain_bare(count: u64, bytes: usize) -> Drained {
    use rumqttc::v5::mqttbytes::{QoS, v5::Packet};
    use rumqttc::v5::{AsyncClient, Event, MqttOptions};
    let site = Site::new();
    let broker = Broker::start_with(&site, "cloud", "allow_anonymous true\npersistence false\n");
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let mut options = MqttOptions::new("bare", "127.0.0.1", broker.port);
        options.set_outgoing_inflight_upper_limit(WINDOW);
        let (client, mut events) = AsyncClient::new(options, usize::from(WINDOW));
        let payload = vec![b'x'; bytes];
        let begin = (Instant::now(), cpu_seconds(std::process::id()));
        let publishing = tokio::spawn(async move {
            for _ in 0..count {
                let sent = client.publish(
                    "tidegate/bench/readings",
                    QoS::AtLeastOnce,
                    false,
                    payload.clone(),
                );
                sent.await.unwrap();
            }
            client
        });
        let mut acknowledged = 0;
        while acknowledged < count {
            if let Event::Incoming(Packet::PubAck(_)) = events.poll().await.unwrap() {
                acknowledged += 1;
            }
        }
        let rate = per_second(count, begin.0.elapsed());
        let cpu = cpu_seconds(std::process::id()) - begin.1;
        drop(publishing.await.unwrap());
        Drained {
            messages: count,
            bytes,
            rate,
            cpu_microseconds: cpu / count as f64 * 1e6,
        }
    })
}

/// Prints how long alarms take from the sensor's broker to the cloud's, beside a load of so many messages a second.
pub(crate) fn alarms(load: f64) {
    let site = Site::new();
    // With Nagle's algorithm in the broker the alarm waits up to 40 ms there for whoever times it to acknowledge what came
    // before: that is not the way through the daemon.
    let lines = "allow_anonymous true\nset_tcp_nodelay true\n";
    let broker = Broker::start_with(&site, "broker", lines);
    let url = broker.url();
    let config = site.write(
        "tidegate.toml",
        &format!(
            "[gateway]\nid = \"bench\"\nstate-dir = \"{}\"\n\
             [source.plant]\nkind = \"mqtt\"\nurl = \"{url}\"\nversion = \"5\"\nsubscribe = [{{ topic = \"plant/#\" }}]\n\
             decode = {{ as = \"json\", time-field = \"ts\", time-unit = \"ms\" }}\n\
             [pipeline.load]\nfrom = [\"plant\"]\nseries = [\"plant/line/*\"]\nsummary = {{ window = \"1s\" }}\n\
             to = [{{ uplink = \"cloud\", send = \"summary\" }}]\n\
             [pipeline.watch]\nfrom = [\"plant\"]\nseries = [\"plant/press*/v\"]\n\
             filters = [{{ module = \"anomaly\", settings = {{ rate = 500, zscore = 0 }} }}]\n\
             to = [{{ uplink = \"cloud\", send = \"readings\" }}]\n\
             [uplink.cloud]\nkind = \"mqtt\"\nurl = \"{url}\"\ntopic = \"tidegate/{{gateway}}/{{kind}}\"\nversion = \"5\"\n",
            site.path("state").display(),
        ),
    );
    let mut daemon = Daemon::start(&config);
    let (stop, stopped) = std::sync::mpsc::channel::<()>();
    let feeding = std::thread::spawn({
        let port = broker.port;
        move || {
            let mut publisher = Publisher::start(port, "plant/line", &[]);
            let (begin, mut sent) = (Instant::now(), 0.0);
            while stopped.try_recv().is_err() {
                while sent < begin.elapsed().as_secs_f64() * load {
                    publisher.line(&format!(
                        "{{\"ts\":{},\"n\":{}}}",
                        now_millis(),
                        sent % 97.0
                    ));
                    sent += 1.0;
                }
                std::thread::sleep(Duration::from_millis(1));
            }
            publisher.finish();
        }
    });
    let times = time_alarms(&broker);
    let syncs = time_syncs(&site);
    stop.send(()).unwrap();
    feeding.join().unwrap();
    let status = daemon.json("/api/v1/status");
    let milliseconds = |key: &str| status["store"][key].as_f64().unwrap() * 1e3;
    println!(
        "{ALARMS} alarms beside {load:.0} messages/s, sensor's broker to cloud's: p50 {:.1} ms, p99 {:.1} ms; \
         a commit: p50 {:.1} ms, p99 {:.1} ms; a sync of 4 KiB alone: p50 {:.1} ms, p99 {:.1} ms",
        quantile(&times, 0.5),
        quantile(&times, 0.99),
        milliseconds("commit_p50_seconds"),
        milliseconds("commit_p99_seconds"),
        quantile(&syncs, 0.5),
        quantile(&syncs, 0.99),
    );
    assert_eq!(daemon.stop(), 0);
}

/// Milliseconds from publishing what raises an alarm to the alarm's arrival, in order of size.
fn time_alarms(broker: &Broker) -> Vec<f64> {
    use rumqttc::v5::mqttbytes::{QoS, v5::Packet};
    use rumqttc::v5::{AsyncClient, Event, MqttOptions};
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let options = MqttOptions::new("timer", "127.0.0.1", broker.port);
        let (client, mut events) = AsyncClient::new(options, 10);
        client
            .subscribe("tidegate/bench/alarm", QoS::AtLeastOnce)
            .await
            .unwrap();
        let mut times = Vec::new();
        while !matches!(
            events.poll().await.unwrap(),
            Event::Incoming(Packet::SubAck(_))
        ) {}
        for n in 0..ALARMS {
            let topic = format!("plant/press{n}");
            let reading = |time, value| format!("{{\"ts\":{time},\"v\":{value}}}");
            let now = now_millis();
            let quiet = client.publish(&topic, QoS::AtLeastOnce, false, reading(now, 10));
            quiet.await.unwrap();
            let until = Instant::now() + Duration::from_millis(40);
            while Instant::now() < until {
                if let Ok(event) =
                    tokio::time::timeout(Duration::from_millis(10), events.poll()).await
                {
                    event.unwrap();
                }
            }
            let begin = Instant::now();
            let loud = client.publish(&topic, QoS::AtLeastOnce, false, reading(now + 1000, 5000));
            loud.await.unwrap();
            while !matches!(
                events.poll().await.unwrap(),
                Event::Incoming(Packet::Publish(_))
            ) {}
            times.push(begin.elapsed().as_secs_f64() * 1e3);
        }
        times.sort_by(f64::total_cmp);
        times
    })
}

/// Milliseconds of syncs of a file of the bench's own beside the daemon's, in order of size.
fn time_syncs(site: &Site) -> Vec<f64> {
    let mut file = File::create(site.path("syncs")).unwrap();
    let mut times: Vec<f64> = (0..ALARMS)
        .map(|_| {
            std::thread::sleep(Duration::from_millis(5));
            let begin = Instant::now();
            file.write_all(&[0; 4096]).unwrap();
            file.sync_data().unwrap();
            begin.elapsed().as_secs_f64() * 1e3
        })
        .collect();
    times.sort_by(f64::total_cmp);
    times
}

fn quantile(sorted: &[f64], quantile: f64) -> f64 {
    sorted[((sorted.len() - 1) as f64 * quantile).round() as usize]
}

fn now_millis() -> u128 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.unwrap().as_millis()
}
