//! What GStreamer's device monitor asks for cameras.

use std::sync::LazyLock;

use gstreamer as gst;
use gstreamer::glib;
use gstreamer::prelude::*;
use gstreamer::subclass::prelude::*;

use crate::plugged::Camera;
use crate::source;

/// The property that names the device node, as V4L2's provider calls it.
const PATH: &str = "device.path";

glib::wrapper! {
    /// The provider.
    pub struct Provider(ObjectSubclass<inner::Provider>) @extends gst::DeviceProvider, gst::Object;
}

glib::wrapper! {
    /// A camera that is plugged in.
    pub struct Device(ObjectSubclass<inner::Device>) @extends gst::Device, gst::Object;
}

pub(crate) fn register(plugin: &gst::Plugin) -> Result<(), glib::BoolError> {
    let (name, rank) = ("punchcasttestcameraprovider", gst::Rank::PRIMARY);
    gst::DeviceProvider::register(Some(plugin), name, rank, Provider::static_type())
}

fn devices() -> Vec<gst::Device> {
    let device = |camera: Camera| {
        let modes: gst::Caps = camera.modes.parse().ok()?;
        let properties = gst::Structure::builder("properties").field(PATH, camera.path).build();
        let device = glib::Object::builder::<Device>()
            .property("display-name", camera.name)
            .property("device-class", "Video/Source")
            .property("caps", modes)
            .property("properties", properties)
            .build();
        Some(device.upcast())
    };
    Camera::all().into_iter().filter_map(device).collect()
}

mod inner {
    use super::*;

    #[derive(Default)]
    pub struct Provider;

    #[glib::object_subclass]
    impl ObjectSubclass for Provider {
        const NAME: &'static str = "PunchcastTestCameraProvider";
        type Type = super::Provider;
        type ParentType = gst::DeviceProvider;
    }

    impl ObjectImpl for Provider {}
    impl GstObjectImpl for Provider {}

    impl DeviceProviderImpl for Provider {
        fn metadata() -> Option<&'static gst::subclass::DeviceProviderMetadata> {
            static METADATA: LazyLock<gst::subclass::DeviceProviderMetadata> =
                LazyLock::new(|| {
                    gst::subclass::DeviceProviderMetadata::new(
                        "Cameras of a test",
                        "Source/Video",
                        "Lists the cameras that a test has plugged in",
                        "punchcast",
                    )
                });
            Some(&METADATA)
        }

        fn probe(&self) -> Vec<gst::Device> {
            devices()
        }

        fn start(&self) -> Result<(), gst::LoggableError> {
            for device in devices() {
                self.obj().device_add(&device);
            }
            Ok(())
        }

        fn stop(&self) {}
    }

    #[derive(Default)]
    pub struct Device;

    #[glib::object_subclass]
    impl ObjectSubclass for Device {
        const NAME: &'static str = "PunchcastTestCameraDevice";
        type Type = super::Device;
        type ParentType = gst::Device;
    }

    impl ObjectImpl for Device {}
    impl GstObjectImpl for Device {}

    impl DeviceImpl for Device {
        fn create_element(&self, name: Option<&str>) -> Result<gst::Element, gst::LoggableError> {
            let properties = self.obj().properties();
            let path = properties.and_then(|properties| properties.get::<String>(PATH).ok());
            let mut element = gst::ElementFactory::make(source::NAME).property("device", path);
            if let Some(name) = name {
                element = element.name(name);
            }
            element.build().map_err(|error| gst::loggable_error!(gst::CAT_RUST, "{error}"))
        }
    }
}
