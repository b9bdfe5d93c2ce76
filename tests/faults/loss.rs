//! Real packet loss on a port of the loopback interface.

use std::process::Command;
use std::thread;

use crate::support::path_with_sbin;

/// Three packets of ten to and from a port are lost, by a rule of the kernel's. Needs root and nftables.
pub(crate) struct Loss {
    table: String,
}

impl Loss {
    pub(crate) fn on(port: u16) -> Self {
        let table = format!("tidegate_test_{port}");
        let loss = Self { table };
        let table = &loss.table;
        nft(&format!("add table inet {table}"));
        nft(&format!(
            "add chain inet {table} input {{ type filter hook input priority 0; }}"
        ));
        for side in ["dport", "sport"] {
            nft(&format!(
                "add rule inet {table} input tcp {side} {port} numgen random mod 100 < 30 drop"
            ));
        }
        loss
    }
}

impl Drop for Loss {
    fn drop(&mut self) {
        nft(&format!("delete table inet {}", self.table));
    }
}

fn nft(rule: &str) {
    let output = Command::new("nft")
        .env("PATH", path_with_sbin())
        .arg(rule)
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success() || thread::panicking(),
        "nft {rule}: {errors}"
    );
}
