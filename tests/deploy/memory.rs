//! A repository in memory, for what is done a thousand times.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use tidegate_deploy::{
    Answer, Body, Chunks, Device, DeviceConfig, FetchError, Kind, Now, Pace, Pending, Polled,
    Refusal, Request, Transport, time,
};
use tidegate_domain::install::Epoch;

/// Files by their path.
#[derive(Clone, Debug, Default)]
pub(crate) struct Memory {
    pub(crate) files: BTreeMap<String, Vec<u8>>,
    /// After so many bytes the line is gone.
    pub(crate) left: Option<Arc<Mutex<u64>>>,
}

impl Memory {
    /// What lies in a folder.
    pub(crate) fn of(dir: &Path) -> Self {
        let mut memory = Self::default();
        memory.add(dir, dir);
        memory
    }

    fn add(&mut self, top: &Path, dir: &Path) {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                self.add(top, &path);
            } else {
                let name = path.strip_prefix(top).unwrap().to_str().unwrap();
                self.files.insert(name.to_owned(), fs::read(&path).unwrap());
            }
        }
    }
}

impl Transport for Memory {
    fn open<'a>(&'a self, request: Request<'a>) -> Pending<'a, Result<Answer, FetchError>> {
        Box::pin(async move {
            let Some(bytes) = self.files.get(request.path) else {
                return Ok(Answer::Missing);
            };
            let from = usize::try_from(request.from).unwrap().min(bytes.len());
            Ok(Answer::Body(Body {
                from: from as u64,
                tag: None,
                chunks: Box::new(Rest {
                    bytes: bytes[from..].to_vec().into(),
                    path: request.path.to_owned(),
                    left: self.left.clone(),
                }),
            }))
        })
    }

    fn pace(&self) -> Pace {
        Pace {
            silence: Duration::from_secs(30),
            most_bytes_per_second: None,
        }
    }

    fn place(&self) -> String {
        "memory".to_owned()
    }
}

struct Rest {
    bytes: Bytes,
    path: String,
    left: Option<Arc<Mutex<u64>>>,
}

impl Chunks for Rest {
    fn next(&mut self) -> Pending<'_, Result<Option<Bytes>, FetchError>> {
        Box::pin(async move {
            let mut most = self.bytes.len().min(4096);
            if most == 0 {
                return Ok(None);
            }
            if let Some(left) = &self.left {
                let mut left = left.lock().unwrap();
                if *left == 0 {
                    return Err(FetchError {
                        kind: Kind::Fetch,
                        path: self.path.clone(),
                        what: "the line is gone".to_owned(),
                        help: String::new(),
                    });
                }
                most = most.min(usize::try_from(*left).unwrap());
                *left -= most as u64;
            }
            Ok(Some(self.bytes.split_to(most)))
        })
    }
}

/// A device of one case, on a disk of its own.
pub(crate) fn device(dir: &Path, case: &Path) -> Device {
    Device::new(DeviceConfig {
        dir: dir.join("deploy"),
        root: case.join("root.json"),
        channel: "stable".parse().unwrap(),
    })
}

/// One look, on this thread.
pub(crate) fn poll(device: &Device, memory: Memory) -> Result<Polled, Refusal> {
    poll_at(device, memory, 0)
}

/// One look so many seconds from now.
pub(crate) fn poll_at(device: &Device, memory: Memory, later: i64) -> Result<Polled, Refusal> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap();
    let now = Now {
        time: time(i64::try_from(now.as_secs()).unwrap() + later),
        set: true,
    };
    let transport: Arc<dyn Transport> = Arc::new(memory);
    runtime.block_on(device.poll(&transport, now, &|_| Ok(())))
}

/// What is here: nothing, or a channel with all of its files.
pub(crate) fn whole(device: &Device) -> Option<Epoch> {
    let installed = device.newest().unwrap()?;
    for module in &installed.modules {
        for digest in [&module.digest, &module.release] {
            assert!(
                device.read(digest).unwrap().is_some(),
                "{} is named and not here",
                module.name
            );
        }
    }
    Some(installed)
}

/// Copies a folder.
pub(crate) fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &to);
        } else {
            fs::copy(entry.path(), to).unwrap();
        }
    }
}
