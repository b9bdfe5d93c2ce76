//! `tidegate fleet run` beside mosquitto: gateways' reports open the waves of a release or halt it.

use std::fs;
use std::process::Child;

use serde_json::{Value, json};
use tidegate_domain::install::place;

use crate::gateways::{Gateway, Publisher, Variant, said};
use crate::support::{Broker, Site, signal, tidegate, wait_for};

/// `tidegate fleet run`, killed where a test ends early.
struct Watcher {
    child: Child,
}

impl Drop for Watcher {
    fn drop(&mut self) {
        let _ended_already = self.child.kill();
        let _reaped_already = self.child.wait();
    }
}

fn watch(publisher: &Publisher, broker: &Broker, more: &[&str]) -> Watcher {
    let log = fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(publisher.site.path("fleet.log"))
        .unwrap();
    let child = tidegate()
        .args([
            "fleet",
            "run",
            "repo",
            "--keys",
            "keys",
            "--channel",
            "stable",
            "--state",
            "fleet",
        ])
        .args(["--broker", &broker.url()])
        .args(more)
        .current_dir(publisher.site.path(""))
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .spawn()
        .unwrap();
    Watcher { child }
}

impl Watcher {
    fn exit(&mut self) -> i32 {
        let status = wait_for("the end of the watch", || self.child.try_wait().unwrap());
        status.code().unwrap()
    }
}

fn log(publisher: &Publisher) -> String {
    fs::read_to_string(publisher.site.path("fleet.log")).unwrap_or_default()
}

/// `tidegate fleet status --json`; `None` while another command is at the repository.
fn status(publisher: &Publisher) -> Option<Value> {
    let output = tidegate()
        .args([
            "fleet",
            "status",
            "repo",
            "--channel",
            "stable",
            "--state",
            "fleet",
            "--json",
        ])
        .current_dir(publisher.site.path(""))
        .output()
        .unwrap();
    if said(&output).contains("another publisher") {
        return None;
    }
    assert!(output.status.success(), "{}", said(&output));
    Some(serde_json::from_slice(&output.stdout).unwrap())
}

fn wait_status(publisher: &Publisher, what: &str, holds: impl Fn(&Value) -> bool) -> Value {
    wait_for(what, || status(publisher).filter(&holds))
}

/// The newest channel document.
fn document(publisher: &Publisher) -> Value {
    let files = fs::read_dir(publisher.site.path("repo/targets/channels")).unwrap();
    let documents = files.map(|file| {
        let text = fs::read(file.unwrap().path()).unwrap();
        serde_json::from_slice::<Value>(&text).unwrap()
    });
    documents.max_by_key(|it| it["epoch"].as_u64()).unwrap()
}

/// Names of which the first so many have their place among the first 40 % in all of these epochs, and the others in none.
fn names(epochs: &[u64], early: usize, late: usize) -> Vec<String> {
    let all = (0..).map(|n| format!("gw-{n}"));
    let of = |early: bool| {
        let placed = move |name: &String| {
            let mut epochs = epochs.iter();
            epochs.all(|epoch| (place(name, "stable", *epoch) < 4000) == early)
        };
        all.clone().filter(placed)
    };
    of(true).take(early).chain(of(false).take(late)).collect()
}

#[test]
fn the_first_waves_gateway_halts_a_bad_release_for_all_and_a_good_one_goes_from_wave_to_wave() {
    let publisher = Publisher::new();
    let broker = Broker::start(&publisher.site, "cloud");
    publisher.add("1.0.0", |_| ());
    publisher.publish("1.0.0", json!({}), &[]);
    let repository = format!("file://{}", publisher.site.path("repo").display());
    // The bad release will be epoch 2, the good one 4.
    let mut gateways: Vec<Gateway> = names(&[2, 4], 1, 2)
        .iter()
        .map(|name| {
            let site = Site::new();
            Variant::of("varies", "0.1.0").write(&site.path("modules"), |_| ());
            site.write("conf.d/id.toml", &format!("[gateway]\nid = \"{name}\"\n"));
            let uplink = format!(
                "[uplink.fleet]\nkind = \"mqtt\"\nurl = \"{}\"\ntopic = \"tidegate/{{gateway}}/{{kind}}\"",
                broker.url()
            );
            let gateway = Gateway::spawn(site, &publisher, &repository, &uplink);
            gateway.daemon.wait_ready();
            gateway
        })
        .collect();
    let watcher = watch(&publisher, &broker, &[]);
    for gateway in &mut gateways {
        gateway.look(&["update"]);
        gateway.settle(1);
    }
    let all = wait_status(&publisher, "three gateways", |status| status["taken"] == 3);
    assert_eq!(
        all["runs"],
        json!([{"modules": "varies 1.0.0", "gateways": 3}]),
        "{all}"
    );
    assert_eq!(all["state"], "not-staged");

    let waves = ["--staged", "40%@2s", "--staged", "100%@2s"];
    publisher.add("1.1.0", |_| ());
    publisher.publish("1.1.0", json!({"behaviour": "trap"}), &waves);
    for gateway in &gateways {
        gateway.look(&["update"]);
    }
    gateways[0].refuses(2, "trial");
    let halted = wait_status(&publisher, "the halt", |status| status["state"] == "halted");
    assert_eq!(
        (&halted["epoch"], &halted["wave"]["number"]),
        (&json!(3), &json!(1))
    );
    assert_eq!(
        (&halted["failed"], &halted["outside"]),
        (&json!(1), &json!(0)),
        "{halted}"
    );
    let why = halted["failures"][0]["reason"].as_str().unwrap();
    assert!(why.contains("trap"), "{halted}");
    // Longer than the wave would have taken: the others look, and never take it up.
    for gateway in &mut gateways[1..] {
        gateway.look(&["update"]);
        gateway.send(40);
        let install = wait_for("the gateway's wait", || {
            Some(gateway.install()).filter(|it| it["newest"] == 3 && it["state"] == "waiting")
        });
        let reason = install["waiting"]["reason"].as_str().unwrap();
        assert!(reason.contains("halted"), "{install}");
        assert_eq!(gateway.version("active").as_deref(), Some("1.0.0"));
        assert_eq!(gateway.audited(), ["epoch.begun", "epoch.settled"]);
    }
    drop(watcher);

    // A good one, to the end.
    publisher.add("1.2.0", |_| ());
    let all = [&waves[..], &["--taken", "100%"]].concat();
    publisher.publish("1.2.0", json!({"behaviour": "none"}), &all);
    let mut watcher = watch(&publisher, &broker, &["--until-done"]);
    for gateway in &mut gateways {
        wait_for("the good release", || {
            gateway.look(&["update"]);
            gateway.send(20);
            let install = gateway.install();
            let settled = install["state"] == "settled";
            (settled && gateway.version("active").as_deref() == Some("1.2.0")).then_some(())
        });
    }
    assert_eq!(watcher.exit(), 0, "{}", log(&publisher));
    let through = status(&publisher).unwrap();
    assert_eq!(through["state"], "through", "{through}");
    assert_eq!(
        (&through["wave"]["number"], &through["taken"]),
        (&json!(2), &json!(3))
    );
    assert_eq!(
        through["runs"],
        json!([{"modules": "varies 1.2.0", "gateways": 3}])
    );
    for (index, gateway) in gateways.iter().enumerate() {
        gateway.look(&["update"]);
        wait_for("the last wave's document", || {
            let install = gateway.install();
            (install["newest"] == 5 && install["state"] == "settled").then_some(())
        });
        // Once: the second wave's document begins nothing anew where the first's was taken.
        let audited = gateway.audited();
        let begun = audited.iter().filter(|it| *it == "epoch.begun").count();
        assert_eq!(begun, if index == 0 { 3 } else { 2 }, "{audited:?}");
        gateway.check_whole();
    }
}

/// What a gateway's uplink sends about an epoch.
fn report(name: &str, code: &str, epoch: u64, version: &str, digest: &Value) -> String {
    json!({
        "v": 1, "gateway": name, "stream": "9f2c41d07b3e8a55", "seq": 1, "kind": "event", "replayed": false,
        "items": [{"time": 1, "code": code, "text": "said by hand", "data": {
            "channel": "stable", "epoch": epoch, "document": "sha256:00", "reason": "it traps",
            "modules": [{"name": "varies", "version": version, "digest": digest}],
        }}],
    })
    .to_string()
}

#[test]
fn a_halt_is_one_vote_a_gateway_survives_a_kill_and_gives_back_or_revokes() {
    let publisher = Publisher::new();
    let broker = Broker::start(&publisher.site, "cloud");
    for version in ["1.0.0", "1.1.0", "1.2.0", "1.3.0"] {
        publisher.add(version, |_| ());
    }
    let publish = |version: &str, more: &[&str]| {
        let module = format!("varies={version}");
        let arguments = ["--channel", "stable", "--module", &module];
        let published = publisher.repo("publish", &[&arguments, more].concat());
        published["modules"]["varies"]["digest"].clone()
    };
    let refused = |more: &[&str], says: &str| {
        let output = tidegate()
            .args([
                "repo",
                "publish",
                "repo",
                "--keys",
                "keys",
                "--module",
                "varies=1.1.0",
            ])
            .args(["--staged", "40%@1h"])
            .args(more)
            .current_dir(publisher.site.path(""))
            .output()
            .unwrap();
        assert!(
            !output.status.success() && said(&output).contains(says),
            "{}",
            said(&output)
        );
    };
    refused(
        &["--channel", "new", "--on-failure", "roll-back"],
        "gave nothing before",
    );
    let first = publish("1.0.0", &[]);
    let stable = ["--channel", "stable", "--on-failure"];
    refused(&[&stable[..], &["revoke"]].concat(), "replace");
    refused(
        &[&stable[..], &["revoke", "--replace", "varies=1.0.0"]].concat(),
        "above",
    );
    refused(
        &[&stable[..], &["revoke", "--replace", "varies=9.0.0"]].concat(),
        "9.0.0",
    );

    // Ten in the first wave of epoch 2, and twenty others.
    let fleet = names(&[2], 10, 20);
    let send = |name: &str, code: &str, epoch, version: &str, digest: &Value| {
        let topic = format!("tidegate/{name}/event");
        broker.publish(&topic, [report(name, code, epoch, version, digest)]);
    };
    let mut watcher = watch(&publisher, &broker, &[]);
    // The session begins with its first connection; from then on nothing is missed.
    wait_for("the connection", || {
        log(&publisher).contains("connected").then_some(())
    });
    for name in &fleet {
        send(name, "epoch-settled", 1, "1.0.0", &first);
    }
    wait_status(&publisher, "thirty gateways", |status| {
        status["gateways"] == 30
    });
    let waves = [
        "--staged",
        "40%@1h",
        "--staged",
        "100%@1h",
        "--failures",
        "20%",
    ];
    let bad = publish(
        "1.1.0",
        &[
            &waves[..],
            &["--on-failure", "revoke", "--replace", "varies=1.2.0"],
        ]
        .concat(),
    );
    // One gateway says it often, by the topics of others, and of epochs that were never made; those of later waves say it, too.
    for _ in 0..5 {
        send(&fleet[0], "epoch-put-back", 2, "1.1.0", &bad);
    }
    for other in &fleet[1..4] {
        let topic = format!("tidegate/{other}/event");
        broker.publish(
            &topic,
            [report(&fleet[0], "epoch-put-back", 2, "1.1.0", &bad)],
        );
        broker.publish(&topic, ["{".to_owned()]);
        send(other, "epoch-put-back", 3, "1.1.0", &bad);
        send(other, "epoch-put-back", 2, "1.1.0", &first);
    }
    for late in &fleet[10..20] {
        send(late, "epoch-put-back", 2, "1.1.0", &bad);
    }
    let status_of = wait_status(&publisher, "the votes", |status| status["outside"] == 10);
    assert_eq!(
        (&status_of["failed"], &status_of["wave"]["number"]),
        (&json!(1), &json!(1))
    );
    assert_eq!(status_of["state"], "soaking", "{status_of}");

    // Decided, and not yet published: somebody else is at the repository.
    let lock = fs::File::open(publisher.site.path("repo/.lock")).unwrap();
    wait_for("the repository", || lock.try_lock().ok());
    for name in &fleet[1..3] {
        send(name, "epoch-put-back", 2, "1.1.0", &bad);
    }
    wait_for("the decision", || {
        log(&publisher).contains("halting").then_some(())
    });
    watcher.child.kill().unwrap();
    watcher.child.wait().unwrap();
    lock.unlock().unwrap();
    assert_eq!(document(&publisher)["epoch"], 2);
    // Ten more take it meanwhile, and three would no longer be too many: what was decided stays decided.
    for name in &names(&[2], 20, 0)[10..] {
        send(name, "epoch-settled", 2, "1.1.0", &bad);
    }
    let mut watcher = watch(&publisher, &broker, &["--until-done"]);
    assert_eq!(watcher.exit(), 1, "{}", log(&publisher));
    let back = document(&publisher);
    assert_eq!(back["epoch"], 3);
    let varies = &back["modules"]["varies"];
    assert_eq!(
        (&varies["version"], &varies["minimum"]),
        (&json!("1.2.0"), &json!("1.2.0"))
    );
    assert_eq!(
        (&back["staged"], &back["waves"]),
        (&Value::Null, &json!([])),
        "to all, at once"
    );
    let halt = status(&publisher).unwrap()["last_halt"].clone();
    assert!(
        halt["reason"].as_str().unwrap().contains("3 of the 10"),
        "{halt}"
    );
    // Once is enough.
    assert_eq!(watch(&publisher, &broker, &["--until-done"]).exit(), 1);
    assert_eq!(document(&publisher)["epoch"], 3);

    // The way back to what the channel gave before, with its minimum.
    let bad = publish(
        "1.3.0",
        &[&waves[..], &["--on-failure", "roll-back"]].concat(),
    );
    let mut watcher = watch(&publisher, &broker, &[]);
    let early = fleet.iter().filter(|name| place(name, "stable", 4) < 4000);
    for name in early {
        send(name, "epoch-refused", 4, "1.3.0", &bad);
    }
    let back = wait_for("the way back", || {
        Some(document(&publisher)).filter(|it| it["epoch"] == 5)
    });
    let varies = &back["modules"]["varies"];
    assert_eq!(
        (&varies["version"], &varies["minimum"]),
        (&json!("1.2.0"), &json!("1.2.0"))
    );
    // A second one beside it would decide by half of the reports.
    let mut second = watch(&publisher, &broker, &[]);
    assert_eq!(second.exit(), 1);
    assert!(
        log(&publisher).contains("another `tidegate fleet run`"),
        "{}",
        log(&publisher)
    );
    signal(watcher.child.id(), "TERM");
    assert_eq!(watcher.exit(), 0);
}
