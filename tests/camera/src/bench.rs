//! The tests' side: a folder with the plugin and the list of what is plugged in.

use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

use gstreamer as gst;
use tempfile::TempDir;

use crate::plugged::Camera;

/// Providers whose cameras this machine may really have.
const OTHERS: &str = "v4l2deviceprovider:NONE,pipewiredeviceprovider:NONE,libcameraprovider:NONE";

/// The cameras that programs see, and no others. None at first.
pub struct Cameras {
    folder: TempDir,
}

impl Cameras {
    /// # Errors
    ///
    /// Where the plugin is not built, or no folder can be made.
    pub fn new() -> io::Result<Self> {
        let folder = tempfile::tempdir()?;
        fs::create_dir(folder.path().join("plugins"))?;
        // Nothing else there may be taken for a plugin.
        fs::copy(plugin()?, folder.path().join("plugins/libtestcamera.so"))?;
        let cameras = Self { folder };
        cameras.plug(&[])?;
        Ok(cameras)
    }

    /// From now on these are plugged in, and no others.
    ///
    /// # Errors
    ///
    /// Where the list can't be written.
    pub fn plug(&self, cameras: &[Camera]) -> io::Result<()> {
        // Whoever reads it meanwhile sees one list or the other.
        let new = self.folder.path().join("new");
        fs::write(&new, cameras.iter().map(Camera::line).collect::<String>())?;
        fs::rename(new, self.list())
    }

    /// Has a program see these cameras.
    pub fn show_to(&self, command: &mut Command) {
        command
            .env("GST_PLUGIN_PATH", self.folder.path().join("plugins"))
            // The user's own cache does not come to know the plugin.
            .env("GST_REGISTRY", self.folder.path().join("registry"))
            .env("GST_PLUGIN_FEATURE_RANK", OTHERS)
            .env(crate::VARIABLE, self.list());
    }

    fn list(&self) -> PathBuf {
        self.folder.path().join("cameras")
    }
}

/// Files in the place of devices that take pictures.
pub struct Devices {
    folder: TempDir,
}

/// The plugin that has the real ones, as its file's name has it.
const REAL: &str = "video4linux2";

impl Devices {
    /// # Errors
    ///
    /// Where the plugin is not built, or no folder can be made.
    pub fn new() -> io::Result<Self> {
        let folder = tempfile::tempdir()?;
        let plugins = folder.path().join("plugins");
        fs::create_dir(&plugins)?;
        fs::copy(plugin()?, plugins.join("libtestcamera.so"))?;
        // All that this machine has besides.
        gst::init().map_err(io::Error::other)?;
        let core = gst::Registry::get().find_plugin("coreelements");
        let core = core.and_then(|plugin| plugin.filename());
        let system = core.as_deref().and_then(Path::parent);
        let system = system.ok_or_else(|| io::Error::other("no plugins of GStreamer's"))?;
        for entry in fs::read_dir(system)? {
            let (name, path) = entry.map(|entry| (entry.file_name(), entry.path()))?;
            if !name.to_string_lossy().contains(REAL) {
                std::os::unix::fs::symlink(path, plugins.join(name))?;
            }
        }
        Ok(Self { folder })
    }

    /// A device that is there.
    ///
    /// # Errors
    ///
    /// Where no file can be made.
    pub fn plug(&self, name: &str) -> io::Result<PathBuf> {
        let path = self.folder.path().join(name);
        fs::write(&path, [])?;
        Ok(path)
    }

    /// Has a program see them.
    pub fn show_to(&self, command: &mut Command) {
        command
            .env("GST_PLUGIN_SYSTEM_PATH_1_0", self.folder.path().join("plugins"))
            .env("GST_REGISTRY", self.folder.path().join("registry"))
            .env(crate::DEVICES, "1");
    }
}

/// What cargo has built beside the test.
fn plugin() -> io::Result<PathBuf> {
    let test = env::current_exe()?;
    let folders: Vec<&Path> = test.ancestors().skip(1).take(2).collect();
    let mut found = Vec::new();
    for entry in folders.iter().filter_map(|folder| fs::read_dir(folder).ok()).flatten() {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if name.starts_with("libtest_camera") && name.ends_with(".so") {
            found.push((fs::metadata(&path)?.modified()?, path));
        }
    }
    let newest = found.into_iter().max().map(|(_, path)| path);
    newest.ok_or_else(|| io::Error::other(format!("no libtest_camera.so in {folders:?}")))
}
