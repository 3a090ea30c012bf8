//! The cameras that are plugged in, as the file has them: a line each.

use std::fs;
use std::path::Path;

/// A camera as a test wants it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Camera {
    /// What people call it.
    pub name: String,
    /// Its device node, which no file need be.
    pub path: String,
    /// The modes that it has, as caps are written: raw, JPEG or H.264 with size and rate.
    pub modes: String,
    /// Whether another program has it open.
    pub is_busy: bool,
    /// Whether libcamera has found it, and not V4L2: it has a name for a path, and no properties.
    pub is_of_libcamera: bool,
    /// Where it is plugged in and who made it, as V4L2 tells it of what is on USB: the path in sysfs, and the numbers of
    /// vendor and product.
    pub usb: Option<[String; 3]>,
}

impl Camera {
    /// One that nobody has open.
    pub fn new(name: &str, path: &str, modes: &[&str]) -> Self {
        let modes = modes.join(";");
        let (name, path) = (name.to_owned(), path.to_owned());
        Self { name, path, modes, is_busy: false, is_of_libcamera: false, usb: None }
    }

    /// One that libcamera has found, which calls it this.
    pub fn of_libcamera(id: &str, modes: &[&str]) -> Self {
        Self { is_of_libcamera: true, ..Self::new(id, id, modes) }
    }

    /// The same on USB.
    pub fn on_usb(self, sysfs: &str, vendor: &str, product: &str) -> Self {
        Self { usb: Some([sysfs, vendor, product].map(str::to_owned)), ..self }
    }

    pub(crate) fn line(&self) -> String {
        let use_of_it = if self.is_busy { "busy" } else { "free" };
        let found_by = if self.is_of_libcamera { "libcamera" } else { "v4l2" };
        let usb = self.usb.as_ref().map(|usb| usb.join("|")).unwrap_or_default();
        format!("{}|{}|{}|{use_of_it}|{found_by}|{usb}\n", self.name, self.path, self.modes)
    }

    fn parse(line: &str) -> Option<Self> {
        let mut fields = line.split('|').map(str::to_owned);
        let (name, path, modes) = (fields.next()?, fields.next()?, fields.next()?);
        let (is_busy, is_of_libcamera) = (fields.next()? == "busy", fields.next()? == "libcamera");
        let usb: Vec<_> = fields.collect();
        Some(Self { name, path, modes, is_busy, is_of_libcamera, usb: usb.try_into().ok() })
    }

    /// All that are plugged in.
    pub(crate) fn all() -> Vec<Self> {
        let file = std::env::var_os(crate::VARIABLE).unwrap_or_default();
        let text = fs::read_to_string(Path::new(&file)).unwrap_or_default();
        text.lines().filter_map(Self::parse).collect()
    }

    /// The one of this device node, if it is plugged in.
    pub(crate) fn at(path: &str) -> Option<Self> {
        Self::all().into_iter().find(|camera| camera.path == path)
    }
}
