//! The devices below one directory, as they come and go, and their readings.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use tidegate_domain::lines::write_reading;
use tidegate_domain::{Quality, Value};

use super::channel::{Channel, Measure, Texts, level};
use super::{hwmon, iio};
use crate::polled::Answer;

/// Devices of one source. More are left out, and told.
const DEVICES: usize = 64;
/// Channels of all of them together, likewise.
const CHANNELS: usize = 512;
/// Entries of a directory that are looked at.
const ENTRIES: usize = 1024;
/// Bytes of a file: sysfs gives a page at most.
const FILE_BYTES: u64 = 4096;

/// Which of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SysfsKind {
    /// Industrial I/O.
    Iio,
    /// Hardware monitoring.
    Hwmon,
}

impl SysfsKind {
    /// The word in the configuration.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Iio => "iio",
            Self::Hwmon => "hwmon",
        }
    }

    /// Where the kernel has its devices.
    #[must_use]
    pub fn root(self) -> &'static str {
        match self {
            Self::Iio => "/sys/bus/iio/devices",
            Self::Hwmon => "/sys/class/hwmon",
        }
    }

    /// What the directory of a device is called, before its number.
    fn prefix(self) -> &'static str {
        match self {
            Self::Iio => "iio:device",
            Self::Hwmon => "hwmon",
        }
    }

    fn channels(self, files: &BTreeSet<String>) -> Vec<Channel> {
        match self {
            Self::Iio => iio::channels(files),
            Self::Hwmon => hwmon::channels(files),
        }
    }

    fn all(self) -> &'static [Measure] {
        match self {
            Self::Iio => &iio::MEASURES,
            Self::Hwmon => &hwmon::MEASURES,
        }
    }

    /// The units of what a source reads: globs over its series, in the order in which they count.
    #[must_use]
    pub fn measures(self, source: &str) -> Vec<(String, &'static str)> {
        let mut globs = Vec::new();
        for (kind, _, unit) in self.all().iter().filter(|(.., unit)| !unit.is_empty()) {
            for end in ["", "[0-9_-]*", "/*"] {
                globs.push((format!("{source}/*/{kind}{end}"), *unit));
            }
        }
        globs
    }
}

/// What reads the devices. [`SysfsReader::read`] blocks.
#[derive(Debug)]
pub struct SysfsReader {
    kind: SysfsKind,
    source: String,
    root: PathBuf,
    /// Names, labels or places of the devices that are wanted; all where there are none.
    wanted: Vec<String>,
    devices: BTreeMap<Key, Device>,
    /// The names that devices were given, by the directory above theirs and what they are called there: kept while this runs, so
    /// that no series is ever another device's.
    names: BTreeMap<(PathBuf, String), String>,
}

/// What a device is known by: another one in the same directory is another one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    place: PathBuf,
    inode: u64,
}

#[derive(Debug)]
struct Device {
    name: String,
    dir: PathBuf,
    channels: Vec<(String, Channel)>,
}

impl SysfsReader {
    /// Looks at nothing yet.
    #[must_use]
    pub fn new(kind: SysfsKind, source: &str, root: PathBuf, wanted: Vec<String>) -> Self {
        Self {
            kind,
            source: source.to_owned(),
            root,
            wanted,
            devices: BTreeMap::new(),
            names: BTreeMap::new(),
        }
    }

    /// Finds what has come, tells once of what has gone, and reads the rest.
    pub fn read(&mut self) -> Answer {
        let mut lines = String::new();
        let present = match self.present() {
            Ok(present) => present,
            Err(error) => {
                self.lose(&BTreeSet::new(), &mut lines);
                let root = self.root.display();
                return Answer {
                    lines,
                    trouble: Some(format!("{root}: {error}")),
                    ..Answer::default()
                };
            }
        };
        self.lose(&present, &mut lines);
        let mut trouble = self.find(&present);
        let (mut channels, mut bad) = (0, 0);
        for device in self.devices.values() {
            for (series, channel) in &device.channels {
                channels += 1;
                let (value, quality) = read_channel(&device.dir, channel);
                bad += usize::from(quality == Quality::Bad);
                write_reading(&mut lines, series, Value::Float(value), quality);
            }
        }
        if channels == 0 {
            let (kind, root) = (self.kind.as_str(), self.root.display());
            trouble = Some(match self.wanted.as_slice() {
                [] => format!("no {kind} device below {root} has a channel that can be read"),
                wanted => format!("none of {} is below {root}", wanted.join(", ")),
            });
        } else if bad == channels {
            trouble = Some("no channel can be read".to_owned());
        }
        Answer {
            lines,
            trouble,
            ..Answer::default()
        }
    }

    /// The directories of devices, by what they are known by.
    fn present(&self) -> io::Result<BTreeSet<Key>> {
        let mut present = BTreeSet::new();
        for entry in fs::read_dir(&self.root)?.take(ENTRIES) {
            let entry = entry?;
            let name = entry.file_name();
            let number = name
                .to_str()
                .and_then(|name| name.strip_prefix(self.kind.prefix()));
            if !number.is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit())) {
                continue;
            }
            // One that goes just now is not there.
            let dir = entry.path();
            if let (Ok(place), Ok(about)) = (fs::canonicalize(&dir), fs::metadata(&dir)) {
                let inode = about.ino();
                present.insert(Key { place, inode });
            }
        }
        Ok(present)
    }

    /// A reading of bad quality for whatever was read of devices that are gone, once.
    fn lose(&mut self, present: &BTreeSet<Key>, lines: &mut String) {
        let source = &self.source;
        self.devices.retain(|key, device| {
            let here = present.contains(key);
            if !here {
                tracing::warn!(source, device = device.name, "the device is gone");
                for (series, _) in &device.channels {
                    write_reading(lines, series, Value::Float(f64::NAN), Quality::Bad);
                }
            }
            here
        });
    }

    /// Takes up what is there and not known yet. Says what had to be left out.
    fn find(&mut self, present: &BTreeSet<Key>) -> Option<String> {
        let mut new: Vec<(&Key, String)> = Vec::new();
        for key in present {
            if self.devices.contains_key(key) {
                continue;
            }
            let text = |file: &str| level(&read_file(&key.place.join(file)).ok()?);
            let (label, name, place) = (text("label"), text("name"), place(&key.place));
            let is_wanted = |known: &str| self.wanted.iter().any(|wanted| wanted == known);
            let known = [label.as_deref(), name.as_deref(), Some(place.as_str())];
            if self.wanted.is_empty() || known.iter().flatten().any(|known| is_wanted(known)) {
                new.push((key, label.or(name).unwrap_or(place)));
            }
        }
        let mut left_out = 0;
        for (key, called) in &new {
            let twice = new.iter().filter(|(_, other)| other == called).count() > 1;
            let name = self.name(key, called, twice);
            let channels = self.series_of(&key.place, &name);
            let so_far: usize = self.devices.values().map(|d| d.channels.len()).sum();
            if self.devices.len() >= DEVICES || so_far + channels.len() > CHANNELS {
                left_out += 1;
                continue;
            }
            tracing::info!(
                source = self.source,
                device = name,
                channels = channels.len(),
                place = %key.place.display(),
                "a device is there"
            );
            let dir = key.place.clone();
            let device = Device {
                name,
                dir,
                channels,
            };
            self.devices.insert((*key).clone(), device);
        }
        (left_out > 0).then(|| {
            format!(
                "{left_out} devices are left out: {DEVICES} with {CHANNELS} channels are read at most; name those that you want in `devices`"
            )
        })
    }

    /// What a device is called in its series. Two of a kind are told apart by where they are.
    fn name(&mut self, key: &Key, called: &str, twice: bool) -> String {
        let above = key.place.parent().unwrap_or(&self.root).to_owned();
        let known = (above, called.to_owned());
        let given = self.names.get(&known).cloned().unwrap_or_else(|| {
            match twice || self.names.values().any(|other| other == called) {
                true => format!("{called}@{}", place(&key.place)),
                false => called.to_owned(),
            }
        });
        // Bounded, for an adapter that is plugged in elsewhere each time.
        if self.names.len() < DEVICES * 4 {
            self.names.insert(known, given.clone());
        }
        // Two of a kind in one place are told apart by their order there.
        let taken = |name: &str| self.devices.values().any(|device| device.name == name);
        let numbered = (2..=DEVICES + 1).map(|number| format!("{given}-{number}"));
        let mut names = std::iter::once(given.clone()).chain(numbered);
        names.find(|name| !taken(name)).unwrap_or(given)
    }

    /// The channels of a device, each with its series.
    fn series_of(&self, dir: &Path, device: &str) -> Vec<(String, Channel)> {
        let files: BTreeSet<String> = fs::read_dir(dir)
            .into_iter()
            .flatten()
            .take(ENTRIES)
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .collect();
        let channels = self.kind.channels(&files);
        let labels: Vec<Option<String>> = channels
            .iter()
            .map(|channel| {
                let file = channel.label.as_ref()?;
                let label = level(&read_file(&dir.join(file)).ok()?)?;
                Some(format!("{}/{label}", channel.kind))
            })
            .collect();
        let ends = channels.iter().zip(&labels).map(|(channel, label)| {
            // A label that two channels have names neither.
            let once =
                |label: &&String| labels.iter().flatten().filter(|l| l == label).count() == 1;
            label.as_ref().filter(once).unwrap_or(&channel.name).clone()
        });
        let ends: Vec<String> = ends.collect();
        let series = ends
            .iter()
            .map(|end| format!("{}/{device}/{end}", self.source));
        series.zip(channels).collect()
    }
}

/// Where a device is: the directory above its own, as in `1-0076` for address 0x76 on I²C bus 1.
fn place(path: &Path) -> String {
    let mut parents = path.ancestors().skip(1).filter_map(Path::file_name);
    // hwmon has a directory of that name in between.
    let parent = parents.find(|name| *name != "hwmon");
    parent
        .and_then(|name| level(&name.to_string_lossy()))
        .unwrap_or_else(|| "device".to_owned())
}

fn read_channel(dir: &Path, channel: &Channel) -> (f64, Quality) {
    let read = |file: &str| read_file(&dir.join(file)).ok();
    let optional = |file: &Option<String>| file.as_ref().map(|file| read(file));
    let (value, scale) = (read(&channel.value), optional(&channel.scale));
    let (offset, fault) = (optional(&channel.offset), optional(&channel.fault));
    channel.read(Texts {
        value: value.as_deref(),
        scale: scale.as_ref().map(|text| text.as_deref()),
        offset: offset.as_ref().map(|text| text.as_deref()),
        fault: fault.as_ref().map(|text| text.as_deref()),
    })
}

/// The text of a small file.
fn read_file(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    File::open(path)?
        .take(FILE_BYTES)
        .read_to_string(&mut text)?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(root: &Path, files: &[(&str, &str)]) {
        for (path, text) in files {
            let path = root.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
    }

    fn reader(kind: SysfsKind, root: &Path, wanted: &[&str]) -> SysfsReader {
        let wanted = wanted.iter().map(|&name| name.to_owned()).collect();
        SysfsReader::new(kind, "s", root.to_owned(), wanted)
    }

    /// The lines of an answer, sorted: directories have no order.
    fn lines(answer: &Answer) -> Vec<String> {
        let mut lines: Vec<String> = answer.lines.lines().map(|l| l.replace('\t', " ")).collect();
        lines.sort();
        lines
    }

    #[test]
    fn devices_come_go_and_come_back() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("iio");
        let mut reader = reader(SysfsKind::Iio, &root, &[]);
        let answer = reader.read();
        assert!(answer.trouble.unwrap().contains("No such file"));
        let device = [
            ("iio:device0/name", "bme280\n"),
            ("iio:device0/in_temp_input", "21600\n"),
            ("trigger0/name", "sysfstrig0\n"),
        ];
        write(&root, &device);
        let answer = reader.read();
        assert_eq!(answer.trouble, None);
        assert_eq!(lines(&answer), ["s/bme280/temp float 21.6 good"]);
        fs::rename(root.join("iio:device0"), dir.path().join("away")).unwrap();
        let answer = reader.read();
        assert_eq!(lines(&answer), ["s/bme280/temp float NaN bad"]);
        assert!(answer.trouble.unwrap().contains("no iio device"));
        assert_eq!(reader.read().lines, "");
        fs::rename(dir.path().join("away"), root.join("iio:device0")).unwrap();
        assert_eq!(lines(&reader.read()), ["s/bme280/temp float 21.6 good"]);
    }

    #[test]
    fn a_file_that_cannot_be_read_is_a_bad_reading_and_no_more() {
        let dir = tempfile::tempdir().unwrap();
        write(
            dir.path(),
            &[
                ("hwmon0/name", "nct6775\n"),
                ("hwmon0/temp1_input", "45500\n"),
                ("hwmon0/temp1_label", "CPU die\n"),
                ("hwmon0/temp2_input", "\u{fffd}garbage"),
                ("hwmon0/in0_input", "3312\n"),
                ("hwmon0/fan1_input", "900\n"),
                ("hwmon0/fan1_fault", "1\n"),
            ],
        );
        // What is a directory gives EISDIR, as a chip that does not answer gives EIO.
        fs::create_dir(dir.path().join("hwmon0/curr1_input")).unwrap();
        let mut reader = reader(SysfsKind::Hwmon, dir.path(), &[]);
        let answer = reader.read();
        assert_eq!(
            lines(&answer),
            [
                "s/nct6775/curr1 float NaN bad",
                "s/nct6775/fan1 float 900 bad",
                "s/nct6775/in0 float 3.312 good",
                "s/nct6775/temp/CPU-die float 45.5 good",
                "s/nct6775/temp2 float NaN bad",
            ]
        );
        assert_eq!(answer.trouble, None);
    }

    #[test]
    fn two_of_a_kind_are_told_apart_by_their_place_and_keep_their_names() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("class");
        fs::create_dir(&root).unwrap();
        for (number, place, value) in [(0, "1-0048", "1000"), (1, "1-0049", "2000")] {
            let real = format!("devices/{place}/hwmon/hwmon{number}");
            write(
                dir.path(),
                &[
                    (&format!("{real}/name"), "lm75"),
                    (&format!("{real}/temp1_input"), value),
                ],
            );
            let link = root.join(format!("hwmon{number}"));
            std::os::unix::fs::symlink(dir.path().join(&real), link).unwrap();
        }
        let mut both = reader(SysfsKind::Hwmon, &root, &[]);
        let expect = [
            "s/lm75@1-0048/temp1 float 1 good",
            "s/lm75@1-0049/temp1 float 2 good",
        ];
        assert_eq!(lines(&both.read()), expect);
        // The second alone keeps its name, also when it comes back under another number.
        fs::remove_file(root.join("hwmon0")).unwrap();
        assert_eq!(lines(&both.read())[1], expect[1]);
        fs::rename(root.join("hwmon1"), root.join("hwmon7")).unwrap();
        assert_eq!(lines(&both.read()), [expect[1]]);
        let mut one = reader(SysfsKind::Hwmon, &root, &["1-0049"]);
        assert_eq!(lines(&one.read()), ["s/lm75/temp1 float 2 good"]);
        let mut none = reader(SysfsKind::Hwmon, &root, &["other"]);
        assert!(none.read().trouble.unwrap().starts_with("none of other"));
    }

    #[test]
    fn more_than_the_bound_is_left_out_and_told() {
        let dir = tempfile::tempdir().unwrap();
        for number in 0..DEVICES + 2 {
            let text = format!("hwmon{number}");
            write(
                dir.path(),
                &[
                    (&format!("{text}/name"), &text),
                    (&format!("{text}/temp1_input"), "1"),
                ],
            );
        }
        let answer = reader(SysfsKind::Hwmon, dir.path(), &[]).read();
        assert_eq!(answer.lines.lines().count(), DEVICES);
        assert!(
            answer
                .trouble
                .unwrap()
                .starts_with("2 devices are left out")
        );
    }

    #[test]
    fn units_are_those_of_the_series() {
        let globs = SysfsKind::Iio.measures("air");
        assert!(globs.contains(&("air/*/temp".to_owned(), "°C")));
        assert!(globs.contains(&("air/*/voltage[0-9_-]*".to_owned(), "V")));
        assert!(!globs.iter().any(|(glob, _)| glob.contains("count")));
    }
}
