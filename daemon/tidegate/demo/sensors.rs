//! The demo's plant: sensors that measure soundly for the most part, and otherwise do what sensors do.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context;
use rumqttc::{AsyncClient, Event, EventLoop, MqttOptions, Packet, QoS};

/// Lines of the plant, one topic each.
const LINES: u32 = 4;
/// How often every line reports.
const PERIOD: Duration = Duration::from_millis(50);

/// Publishes at QoS 1 until the task is aborted.
pub(crate) async fn run(port: u16) -> anyhow::Result<()> {
    let mut options = MqttOptions::new("demo-plant", "127.0.0.1", port);
    options
        .set_keep_alive(Duration::from_secs(5))
        .set_inflight(100);
    let (client, mut events) = AsyncClient::new(options, 64);
    let connection = tokio::spawn(async move {
        loop {
            if let Err(error) = events.poll().await {
                tracing::warn!(%error, "the demo's sensors lost their broker");
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        }
    });
    let published = publish(&client).await;
    connection.abort();
    published
}

/// Subscribes to what the gateway sends up and hands every payload of a kind to `receive`.
pub(crate) async fn receive(
    port: u16,
    topic: String,
    mut receive: impl FnMut(&[u8]),
) -> anyhow::Result<()> {
    let mut options = MqttOptions::new("demo-cloud", "127.0.0.1", port);
    options
        .set_keep_alive(Duration::from_secs(5))
        .set_max_packet_size(1024 * 1024, 1024 * 1024);
    let (client, mut events): (AsyncClient, EventLoop) = AsyncClient::new(options, 64);
    client
        .subscribe(topic, QoS::AtLeastOnce)
        .await
        .context("the demo's receiver cannot subscribe")?;
    loop {
        let event = events
            .poll()
            .await
            .context("the demo's receiver lost its broker")?;
        if let Event::Incoming(Packet::Publish(publish)) = event {
            receive(&publish.payload);
        }
    }
}

async fn publish(client: &AsyncClient) -> anyhow::Result<()> {
    let mut ticks = tokio::time::interval(PERIOD);
    let mut noise = Noise(0x5eed);
    for tick in 0_u32.. {
        ticks.tick().await;
        for line in 1..=LINES {
            let payload = measurement(tick, line, &mut noise);
            let topic = format!("plant/line{line}");
            client
                .publish(&topic, QoS::AtLeastOnce, false, payload.clone())
                .await
                .context("the demo's sensors cannot publish")?;
            if tick % 20 == line {
                // The radio link of this line repeats itself now and then.
                client
                    .publish(&topic, QoS::AtLeastOnce, false, payload)
                    .await?;
            }
            if tick % 45 == 10 * line {
                // A reboot in the middle of a line of JSON.
                client
                    .publish(&topic, QoS::AtLeastOnce, false, "{\"ts\": 17, \"temp")
                    .await?;
            }
        }
    }
    Ok(())
}

/// One line's payload: a slow wave with noise, and at times a sensor that is torn off or a bearing that jumps.
fn measurement(tick: u32, line: u32, noise: &mut Noise) -> String {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_millis();
    let phase = f64::from(tick) / 200.0 + f64::from(line);
    let temperature = match (tick + 13 * line) % 67 {
        0 => 999.0,
        _ => 60.0 + f64::from(line) + 2.0 * phase.sin() + noise.next(0.2),
    };
    let vibration = match (tick + 31 * line) % 311 {
        310 => 9.5,
        _ => 1.2 + noise.next(0.1),
    };
    format!(
        "{{\"ts\":{now},\"temp\":{temperature:.2},\"vibration\":{vibration:.3},\"running\":true,\"pieces\":{}}}",
        tick / 7
    )
}

/// A small deterministic generator (xorshift, Marsaglia 2003): every demo runs the same plant.
struct Noise(u32);

impl Noise {
    /// Evenly distributed in `-amplitude..=amplitude`.
    fn next(&mut self, amplitude: f64) -> f64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 17;
        self.0 ^= self.0 << 5;
        (f64::from(self.0) / f64::from(u32::MAX) * 2.0 - 1.0) * amplitude
    }
}
