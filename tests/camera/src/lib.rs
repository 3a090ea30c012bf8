//! Cameras that tests plug in and out.
//!
//! As a plugin it is a device provider and a source element, which GStreamer's device monitor finds as it does
//! those of V4L2: they tell of the cameras in a file, which the environment names. A camera that is taken out of
//! the file is unplugged, while it runs, too. As a library it has the tests' side of that: [`Cameras`]. For what shows
//! pictures on a device, it has a sink in the place of V4L2's: [`Devices`].

mod bench;
mod device;
mod plugged;
mod plugin;
mod provider;
mod source;

pub use bench::{Cameras, Devices};
pub use plugged::Camera;
pub use source::KEYFRAME_DISTANCE;

/// Where a program is told of the file.
const VARIABLE: &str = "PUNCHCAST_TEST_CAMERAS";

/// Set where a file is to stand for a device that takes pictures.
const DEVICES: &str = "PUNCHCAST_TEST_DEVICES";
