//! The page with figures that were made up: `cargo run -p tidegate-status --example page -- rich 127.0.0.1:8090`.
//!
//! Pictures: `rich` (everything works), `outage` (a source and the cloud are gone, a filter is switched off), `broken`
//! (the disk is full, the ledger does not balance), `empty` (nothing is configured), `waiting` (configured, nothing came).

use std::error::Error;
use std::sync::Arc;

use tidegate_status::serve;
use tokio::net::TcpListener;

#[path = "../tests/pictures/mod.rs"]
mod pictures;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let name = arguments.next().unwrap_or_else(|| "rich".to_owned());
    let address = arguments.next().unwrap_or_else(|| "127.0.0.1:0".to_owned());
    let picture = match name.as_str() {
        "rich" => pictures::rich(),
        "outage" => pictures::outage(),
        "broken" => pictures::broken(),
        "empty" => pictures::empty(),
        "waiting" => pictures::waiting(),
        _ => return Err("pictures: rich, outage, broken, empty, waiting".into()),
    };
    let listener = TcpListener::bind(&address).await?;
    let address = listener.local_addr()?;
    #[expect(clippy::print_stdout, reason = "it is for a person at a terminal")]
    {
        println!("http://{address}");
    }
    let stop = async {
        // Without a signal handler the example runs until it is killed, which is as well.
        tokio::signal::ctrl_c().await.unwrap_or_default();
    };
    let router = tidegate_status::router(Arc::new(picture));
    serve(listener, router, Arc::new(|_| {}), stop).await?;
    Ok(())
}
