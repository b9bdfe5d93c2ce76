//! The serial devices of this machine, by what the kernel says of them.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Entries of a directory that are looked at.
const ENTRIES: usize = 1024;
/// Directories above a device in which its USB identity is looked for.
const ABOVE: usize = 6;

/// A serial device.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SerialDevice {
    /// `/dev/ttyUSB0`
    pub path: PathBuf,
    /// The link below `/dev/serial/by-id`, which names it by what it is.
    pub by_id: Option<PathBuf>,
    /// The kernel's driver.
    pub driver: Option<String>,
    /// USB vendor and product, four hexadecimal digits each.
    pub usb: Option<(String, String)>,
    /// What it calls itself.
    pub product: Option<String>,
    /// Its serial number.
    pub serial: Option<String>,
}

/// All of them, by path. `root` is `/`, or a made tree.
#[must_use]
pub fn serial_devices(root: &Path) -> Vec<SerialDevice> {
    let links: BTreeMap<PathBuf, PathBuf> = entries(&root.join("dev/serial/by-id"))
        .into_iter()
        .filter_map(|link| Some((fs::canonicalize(&link).ok()?, link)))
        .collect();
    let mut devices: Vec<SerialDevice> = entries(&root.join("sys/class/tty"))
        .iter()
        .filter_map(|entry| device(root, entry, &links))
        .collect();
    devices.sort_by(|one, other| one.path.cmp(&other.path));
    devices
}

fn entries(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten().take(ENTRIES);
    entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .collect()
}

fn device(root: &Path, entry: &Path, links: &BTreeMap<PathBuf, PathBuf>) -> Option<SerialDevice> {
    // Consoles and pseudo terminals have no device behind them; ports that the kernel only thinks possible have type 0.
    let place = fs::canonicalize(entry.join("device")).ok()?;
    if text(&entry.join("type")).as_deref() == Some("0") {
        return None;
    }
    let path = root.join("dev").join(entry.file_name()?);
    let usb = place
        .ancestors()
        .take(ABOVE)
        .find(|dir| dir.join("idVendor").is_file());
    let of_usb = |file: &str| text(&usb?.join(file));
    let driver = fs::canonicalize(place.join("driver")).ok();
    let driver = driver.and_then(|driver| Some(driver.file_name()?.to_string_lossy().into_owned()));
    let real = fs::canonicalize(&path).unwrap_or_else(|_| path.clone());
    Some(SerialDevice {
        by_id: links.get(&real).cloned(),
        path,
        driver,
        usb: of_usb("idVendor").zip(of_usb("idProduct")),
        product: of_usb("product"),
        serial: of_usb("serial"),
    })
}

/// A word of sysfs; never more than a page.
fn text(path: &Path) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    let text = text.trim();
    (!text.is_empty() && text.len() <= 256).then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_device_is_known_by_its_link_and_its_usb_identity() {
        let dir = tempfile::tempdir().unwrap();
        let root = fs::canonicalize(dir.path()).unwrap();
        let make = |path: &str, text: &str| {
            let path = root.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        let adapter = "sys/devices/usb1/1-1";
        make(&format!("{adapter}/idVendor"), "0403\n");
        make(&format!("{adapter}/idProduct"), "6001\n");
        make(&format!("{adapter}/product"), "FT232R USB UART\n");
        make(&format!("{adapter}/serial"), "A50285BI\n");
        make(&format!("{adapter}/1-1:1.0/ttyUSB0/x"), "");
        for (tty, class) in [
            ("ttyUSB0", None),
            ("ttyS0", Some("4")),
            ("ttyS1", Some("0")),
        ] {
            make(&format!("dev/{tty}"), "");
            make(&format!("sys/class/tty/{tty}/uevent"), "");
            if let Some(class) = class {
                make(&format!("sys/class/tty/{tty}/type"), class);
                make(&format!("sys/devices/platform/serial8250/{tty}/x"), "");
                let place = root.join("sys/devices/platform/serial8250");
                symlink(
                    place.join(tty),
                    root.join(format!("sys/class/tty/{tty}/device")),
                )
                .unwrap();
            }
        }
        symlink(
            root.join(format!("{adapter}/1-1:1.0/ttyUSB0")),
            root.join("sys/class/tty/ttyUSB0/device"),
        )
        .unwrap();
        make("sys/class/tty/tty1/uevent", "");
        let link = root.join("dev/serial/by-id/usb-FTDI_FT232R-if00-port0");
        fs::create_dir_all(link.parent().unwrap()).unwrap();
        symlink("../../ttyUSB0", &link).unwrap();

        let devices = serial_devices(&root);
        assert_eq!(devices.len(), 2, "{devices:#?}");
        assert_eq!(devices[0].path, root.join("dev/ttyS0"));
        assert_eq!((&devices[0].by_id, &devices[0].usb), (&None, &None));
        assert_eq!(
            devices[1],
            SerialDevice {
                path: root.join("dev/ttyUSB0"),
                by_id: Some(link),
                driver: None,
                usb: Some(("0403".to_owned(), "6001".to_owned())),
                product: Some("FT232R USB UART".to_owned()),
                serial: Some("A50285BI".to_owned()),
            }
        );
        assert_eq!(serial_devices(Path::new("/nonexistent")), []);
    }
}
