//! Cameras that only libcamera makes pictures of, as camera modules of a Raspberry Pi are, beside those of V4L2.
//!
//! Its device provider hides V4L2's, and has webcams too, with fewer modes and another name for each. Here each camera is
//! there once: as V4L2 has it where that gives pictures that are of use.

use gstreamer as gst;
use gstreamer::prelude::*;

use super::modes;

/// What V4L2's provider tells of a device.
const NODE: &str = "device.path";
const SYSFS: &str = "sysfs.path";
const VENDOR: &str = "device.vendor.id";
const PRODUCT: &str = "device.product.id";

/// libcamera's own name of a camera, where it is one that libcamera has found.
pub(super) fn id(device: &gst::Device) -> Option<String> {
    // V4L2's have properties; these have none, and are told by the element that they make.
    let has_node = device.properties().is_some_and(|told| told.has_field(NODE));
    let element = if has_node { None } else { device.create_element(None).ok() }?;
    element.find_property("camera-name")?;
    element.property_value("camera-name").get::<Option<String>>().ok().flatten()
}

/// What people call a camera of this id: `imx219` for `/base/soc/i2c0mux/i2c@1/imx219@10`.
pub(super) fn name_of(id: &str) -> &str {
    let last = id.rsplit('/').next().unwrap_or(id);
    let name = last.split('@').next().unwrap_or(last);
    if name.is_empty() { id } else { name }
}

/// One list of what was found and of what was hidden: libcamera's come first, as V4L2 has them where it gives pictures;
/// then V4L2's that libcamera does not know. Nothing is left out where libcamera found nothing.
pub(super) fn merge(found: Vec<gst::Device>, with_hidden: Vec<gst::Device>) -> Vec<gst::Device> {
    let node = |device: &gst::Device| told(device, NODE);
    let known: Vec<_> = found.iter().filter_map(node).collect();
    let mut of_v4l2: Vec<_> = with_hidden
        .into_iter()
        .filter(|device| node(device).is_some_and(|node| !known.contains(&node)))
        .collect();
    let mut all = Vec::new();
    let mut has_modules = false;
    for device in found {
        let twin = id(&device).and_then(|id| {
            has_modules = true;
            of_v4l2.iter().position(|other| is_same(&id, other))
        });
        let twin = twin.map(|at| of_v4l2.remove(at)).filter(is_of_use);
        all.push(twin.unwrap_or(device));
    }
    // What lies behind a camera module gives V4L2 bare pixels of the sensor, and nothing that can be shown.
    all.extend(of_v4l2.into_iter().filter(|device| !has_modules || is_of_use(device)));
    all
}

/// Whether it gives pictures in a form that is known here.
fn is_of_use(device: &gst::Device) -> bool {
    device.caps().is_some_and(|caps| !modes::list(&caps).is_empty())
}

/// Whether libcamera's id is of V4L2's device: of those on USB it ends with port, interface, vendor and product.
fn is_same(id: &str, device: &gst::Device) -> bool {
    let told = [SYSFS, VENDOR, PRODUCT].map(|what| told(device, what));
    let [Some(sysfs), Some(vendor), Some(product)] = told else { return false };
    usb_end(&sysfs, &vendor, &product).is_some_and(|end| id.ends_with(&end))
}

/// How libcamera's id of a USB camera ends, as in `-2.4:1.0-04f2:b6d9`. The bus, in front of the port, is not part of it.
fn usb_end(sysfs: &str, vendor: &str, product: &str) -> Option<String> {
    let (interface, _) = sysfs.split_once("/video4linux/")?;
    let interface = interface.rsplit('/').next()?;
    let (_bus, port) = interface.split_once('-')?;
    Some(format!("-{port}-{vendor}:{product}"))
}

fn told(device: &gst::Device, what: &str) -> Option<String> {
    device.properties()?.get::<String>(what).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_camera_is_known_by_its_port_and_its_maker() {
        let id = "\\_SB_.PCI0.GP17.XHC0.RHUB-2.4:1.0-04f2:b6d9";
        let sysfs = "/sys/devices/pci0000:00/0000:00:14.0/usb1/1-2.4/1-2.4:1.0/video4linux/video0";
        let end = usb_end(sysfs, "04f2", "b6d9").expect("it is on USB");
        assert!(id.ends_with(&end), "{end}");
        for (sysfs, vendor, product) in [
            ("/sys/devices/usb1/1-4/1-4:1.0/video4linux/video0", "04f2", "b6d9"),
            ("/sys/devices/usb1/1-2.4/1-2.4:1.2/video4linux/video2", "04f2", "b6d9"),
            (sysfs, "04f2", "b6da"),
        ] {
            let end = usb_end(sysfs, vendor, product).expect("it is on USB");
            assert!(!id.ends_with(&end), "{end}");
        }
        assert_eq!(usb_end("/sys/devices/platform/unicam/video4linux/video0", "", ""), None);
    }

    #[test]
    fn a_module_is_called_after_its_sensor() {
        for (id, name) in [
            ("/base/soc/i2c0mux/i2c@1/imx219@10", "imx219"),
            ("\\_SB_.PCI0.I2C2.CAM0", "\\_SB_.PCI0.I2C2.CAM0"),
            ("", ""),
        ] {
            assert_eq!(name_of(id), name);
        }
    }
}
