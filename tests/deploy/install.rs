//! From the publisher's command to a gateway's pipelines and back: three gateways, of which one has no network.

use std::fs;

use serde_json::{Value, json};

use crate::gateways::{Gateway, Publisher, said};
use crate::kills;
use crate::server::Server;
use crate::support::{Daemon, Site, assert_numbers, numbered, wait_for};

#[test]
fn a_good_release_is_adopted_a_bad_one_undone_offline_and_a_revoked_one_removed_on_three_gateways()
{
    let publisher = Publisher::new();
    publisher.add("1.0.0", |_| ());
    publisher.publish("1.0.0", json!({}), &[]);
    let repository = publisher.site.path("repo");
    let server = Server::start(&repository);
    let mut online = Gateway::new(&publisher, &server.url(), "");
    let folder = format!("file://{}", repository.display());
    let mut folder = Gateway::new(&publisher, &folder, "");
    // Nothing listens there: it gets everything from a stick.
    let mut stick = Gateway::new(&publisher, "http://127.0.0.1:1/", "");
    let usb = stick.site.path("usb");

    for gateway in [&mut online, &mut folder, &mut stick] {
        gateway.send(20);
        assert_eq!(gateway.version("active").as_deref(), Some("0.1.0"));
    }
    let take = |gateway: &Gateway, from_stick: bool| {
        if from_stick {
            let _gone = fs::remove_dir_all(&usb);
            crate::memory::copy(&repository, &usb);
            gateway.look(&["import", usb.to_str().unwrap()]);
        } else {
            gateway.look(&["update"]);
        }
    };
    for (index, gateway) in [&mut online, &mut folder, &mut stick]
        .into_iter()
        .enumerate()
    {
        take(gateway, index == 2);
        gateway.wait("trying", 1);
        assert_eq!(gateway.version("candidate").as_deref(), Some("1.0.0"));
        gateway.settle(1);
        assert_eq!(gateway.version("active").as_deref(), Some("1.0.0"));
        assert_eq!(gateway.version("previous").as_deref(), Some("0.1.0"));
    }

    // The bad one: it runs its vectors, and traps on what the plant sends.
    publisher.add("1.1.0", |_| ());
    publisher.publish("1.1.0", json!({"behaviour": "trap"}), &[]);
    for (index, gateway) in [&mut online, &mut folder, &mut stick]
        .into_iter()
        .enumerate()
    {
        take(gateway, index == 2);
    }
    drop(server);
    for gateway in [&mut online, &mut folder, &mut stick] {
        let why = gateway.refuses(2, "trial");
        assert!(why.contains("trap"), "{why}");
        assert_eq!(gateway.version("active").as_deref(), Some("1.0.0"));
        assert_eq!(gateway.version("refused").as_deref(), Some("1.1.0"));
        assert_eq!(gateway.install()["in_force"], 1);
        gateway.check_whole();
        wait_for("the event", || {
            (gateway.events("epoch-put-back").len() == 1).then_some(())
        });
        assert_eq!(
            gateway.audited(),
            [
                "epoch.begun",
                "epoch.settled",
                "epoch.begun",
                "epoch.put-back"
            ]
        );
    }

    // The one that runs is revoked: it goes at once, whatever the site holds.
    publisher.add("1.2.0", |_| ());
    publisher.publish("1.2.0", json!({"behaviour": "none"}), &["--wave", "1%@80d"]);
    folder.look(&["update"]);
    assert_eq!(folder.version("active").as_deref(), Some("1.0.0"));
    publisher.repo(
        "revoke",
        &[
            "--channel",
            "stable",
            "--module",
            "varies",
            "--minimum",
            "1.2.0",
        ],
    );
    for gateway in [&mut folder, &mut stick] {
        let from_stick = gateway.config == gateway.site.path("tidegate.toml")
            && gateway.daemon.json("/api/v1/status")["deploy"]["repository"]
                .as_str()
                .unwrap()
                .starts_with("http");
        take(gateway, from_stick);
        gateway.settle(4);
        assert_eq!(gateway.version("active").as_deref(), Some("1.2.0"));
        // There is no way back to what was revoked, not even by hand.
        let back = gateway.module(&["rollback", "varies"]);
        assert!(
            !back.status.success() && said(&back).contains("revoked"),
            "{}",
            said(&back)
        );
        assert_eq!(gateway.version("active").as_deref(), Some("1.2.0"));
        gateway.check_whole();
    }
}

#[test]
fn what_does_not_pass_the_rehearsal_never_sees_a_reading() {
    let publisher = Publisher::new();
    publisher.add("1.0.0", |manifest| {
        manifest["settings"]["properties"]["width"] = json!({"type": "number"});
        manifest["settings"]["required"] = json!(["width"]);
    });
    // The publisher sets nothing, and the site's own settings do not fit this version.
    let arguments = ["--channel", "stable", "--module", "varies=1.0.0"];
    publisher.repo("publish", &arguments);
    let repository = format!("file://{}", publisher.site.path("repo").display());
    let mut gateway = Gateway::new(&publisher, &repository, "");
    gateway.look(&["update"]);
    let why = gateway.refuses(1, "loading");
    assert!(why.contains("width"), "{why}");
    assert_eq!(gateway.version("active").as_deref(), Some("0.1.0"));
    assert_eq!(gateway.install()["state"], "nothing");
    // It is known: another look does not try it again.
    gateway.look(&["update"]);
    gateway.send(20);
    wait_for("the event", || {
        (gateway.events("epoch-refused").len() == 1).then_some(())
    });
    // Settings that fit make another epoch of it.
    publisher.publish("1.0.0", json!({"width": 1}), &[]);
    gateway.look(&["update"]);
    gateway.settle(2);
    gateway.check_whole();
}

#[test]
fn a_site_holds_takes_what_it_wants_and_says_what_differs() {
    let publisher = Publisher::new();
    publisher.add("1.0.0", |_| ());
    publisher.publish("1.0.0", json!({"behaviour": "trap"}), &[]);
    let repository = format!("file://{}", publisher.site.path("repo").display());
    let mut gateway = Gateway::new(&publisher, &repository, "hold = true\nsettings = \"site\"");
    gateway.look(&["update"]);
    let waits = wait_for("a hold", || {
        let install = gateway.install();
        (install["state"] == "waiting").then_some(install)
    });
    assert!(
        waits["waiting"]["reason"]
            .as_str()
            .unwrap()
            .contains("hold"),
        "{waits}"
    );
    assert_eq!(gateway.version("candidate").as_deref(), Some("1.0.0"));
    gateway.send(20);
    assert_eq!(gateway.version("active").as_deref(), Some("0.1.0"));
    // The hold ends by a reload.
    let text = fs::read_to_string(&gateway.config).unwrap();
    fs::write(&gateway.config, text.replace("hold = true", "hold = false")).unwrap();
    gateway.daemon.signal("HUP");
    gateway.settle(1);
    // The site's own settings win here, and the page says that they differ.
    let drift = gateway.install()["drift"][0].clone();
    assert_eq!(
        (&drift["key"], &drift["wins"]),
        (&json!("behaviour"), &json!("site")),
        "{drift}"
    );
    gateway.check_whole();
}

#[test]
fn a_kill_in_any_state_of_an_installation_goes_on_after_the_restart() {
    let publisher = Publisher::new();
    publisher.add("1.0.0", |_| ());
    publisher.publish("1.0.0", json!({}), &[]);
    let repository = format!("file://{}", publisher.site.path("repo").display());
    let mut gateway = Gateway::new(&publisher, &repository, "");
    gateway.look(&["update"]);
    gateway.wait("trying", 1);
    gateway.daemon.kill();
    gateway.daemon = Daemon::start(&gateway.config);
    gateway.wait("trying", 1);
    assert_eq!(gateway.version("active").as_deref(), Some("0.1.0"));
    gateway.settle(1);
    gateway.daemon.kill();
    gateway.daemon = Daemon::start(&gateway.config);
    gateway.wait("settled", 1);
    assert_eq!(gateway.version("active").as_deref(), Some("1.0.0"));
    // The repository is gone: what is installed does not depend on it.
    fs::remove_dir_all(publisher.site.path("repo/targets")).unwrap();
    assert_eq!(gateway.daemon.stop(), 0);
    gateway.daemon = Daemon::start(&gateway.config);
    gateway.wait("settled", 1);
    assert_eq!(gateway.version("active").as_deref(), Some("1.0.0"));
    // Its files are damaged: what ran was kept besides.
    for entry in fs::read_dir(gateway.site.path("state/deploy/files")).unwrap() {
        fs::write(entry.unwrap().path(), "damaged").unwrap();
    }
    assert_eq!(gateway.daemon.stop(), 0);
    gateway.daemon = Daemon::start(&gateway.config);
    assert_eq!(gateway.version("active").as_deref(), Some("1.0.0"));
    // So is what says what is installed.
    fs::write(gateway.site.path("state/deploy/install.json"), "{").unwrap();
    assert_eq!(gateway.daemon.stop(), 0);
    gateway.daemon = Daemon::start(&gateway.config);
    gateway.send(20);
    assert_eq!(gateway.version("active").as_deref(), Some("1.0.0"));
}

#[test]
fn a_killed_gateway_goes_on_from_any_sync_of_an_installation() {
    let publisher = Publisher::new();
    publisher.add("1.0.0", |_| ());
    publisher.publish("1.0.0", json!({}), &[]);
    let repository = format!("file://{}", publisher.site.path("repo").display());
    let mut gateway = Gateway::new(&publisher, &repository, "");
    let mut kills = 0;
    for sync in 1..=40 {
        let tracer = kills::at_sync(&mut gateway.daemon, sync);
        let _killed_or_not = gateway.module(&["update"]);
        let settled = wait_for("a kill or the end of the installation", || {
            gateway.broker.publish(
                "plant/line1",
                (gateway.sent..gateway.sent + 20).map(numbered),
            );
            gateway.sent += 20;
            if gateway.daemon.exited().is_some() {
                return Some(false);
            }
            let (code, status) = gateway.daemon.get("/api/v1/status")?;
            assert_eq!(code, 200);
            let status: Value = serde_json::from_str(&status).unwrap();
            let install = &status["deploy"]["install"];
            (install["state"] == "settled" && install["in_force"] == 1).then_some(true)
        });
        drop(tracer);
        if settled {
            break;
        }
        kills += 1;
        gateway.daemon = Daemon::start(&gateway.config);
    }
    println!("killed {kills} times");
    assert!(kills >= 8, "{kills}");
    gateway.wait("settled", 1);
    assert_eq!(gateway.version("active").as_deref(), Some("1.0.0"));
    gateway.daemon.wait_delivered();
    assert_numbers(&gateway.collector.items("readings"), gateway.sent);
    assert_eq!(gateway.daemon.ledger()["balanced"], true);
}

#[test]
fn a_new_gateway_waits_for_modules_that_only_the_channel_gives() {
    let publisher = Publisher::new();
    let repository = format!("file://{}", publisher.site.path("repo").display());
    let mut gateway = Gateway::spawn(Site::new(), &publisher, &repository, "");
    let said = |gateway: &Gateway, words: &str| {
        wait_for(words, || gateway.daemon.log().contains(words).then_some(()));
    };
    said(
        &gateway,
        "waiting for varies: neither a local file nor a factory module",
    );
    said(&gateway, "still waiting for varies");
    // The page is there, and says what is waited for.
    let (code, ready) = gateway.daemon.get("/readyz").unwrap();
    assert_eq!(code, 503, "{ready}");
    let words = "waiting for modules of channel stable: varies";
    assert!(ready.contains(words), "{ready}");
    let install = gateway.install();
    assert_eq!(install["state"], "waiting", "{install}");
    let page = gateway.daemon.get("/").unwrap().1;
    assert!(page.contains("Modules over the air"), "{page}");
    // An orderly end, also now.
    assert_eq!(gateway.daemon.stop(), 0);
    publisher.add("1.0.0", |_| ());
    publisher.publish("1.0.0", json!({}), &["--wave", "1%@80d"]);
    gateway.daemon = Daemon::start(&gateway.config);
    gateway.settle(1);
    assert_eq!(gateway.version("active").as_deref(), Some("1.0.0"));
    gateway.check_whole();
    // Another one has no network: it takes them from a stick, over the control socket.
    let mut lone = Gateway::spawn(Site::new(), &publisher, "http://127.0.0.1:1/", "");
    said(&lone, "still waiting for varies");
    let tried = lone.module(&["rollback", "varies"]);
    assert!(!tried.status.success());
    let stick = publisher.site.path("repo");
    lone.look(&["import", stick.to_str().unwrap()]);
    lone.settle(1);
    assert_eq!(lone.version("active").as_deref(), Some("1.0.0"));
    assert_eq!(lone.audited(), ["epoch.begun", "epoch.settled"]);
    // From now on it starts without the repository.
    fs::remove_dir_all(publisher.site.path("repo")).unwrap();
    assert_eq!(gateway.daemon.stop(), 0);
    gateway.daemon = Daemon::start(&gateway.config);
    assert_eq!(gateway.version("active").as_deref(), Some("1.0.0"));
}
