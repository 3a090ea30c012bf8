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

/// The properties of a device on USB: where it is plugged in, and who made it.
const USB: [&str; 3] = ["sysfs.path", "device.vendor.id", "device.product.id"];

/// The provider that stands for V4L2's, which libcamera's hides.
const NAME: &str = "punchcasttestcameraprovider";

glib::wrapper! {
    /// The provider.
    pub struct Provider(ObjectSubclass<inner::Provider>) @extends gst::DeviceProvider, gst::Object;
}

glib::wrapper! {
    /// The provider of what libcamera finds.
    pub struct OfLibcamera(ObjectSubclass<inner::OfLibcamera>) @extends gst::DeviceProvider, gst::Object;
}

glib::wrapper! {
    /// A camera that is plugged in.
    pub struct Device(ObjectSubclass<inner::Device>) @extends gst::Device, gst::Object;
}

pub(crate) fn register(plugin: &gst::Plugin) -> Result<(), glib::BoolError> {
    let rank = gst::Rank::PRIMARY;
    gst::DeviceProvider::register(Some(plugin), NAME, rank, Provider::static_type())?;
    let (name, kind) = ("punchcasttestlibcameraprovider", OfLibcamera::static_type());
    gst::DeviceProvider::register(Some(plugin), name, rank, kind)
}

fn devices(of_libcamera: bool) -> Vec<gst::Device> {
    let device = |camera: Camera| {
        let modes: gst::Caps = camera.modes.parse().ok()?;
        // As each of the two words it.
        let class = if of_libcamera { "Source/Video" } else { "Video/Source" };
        let device = glib::Object::builder::<Device>()
            .property("display-name", &camera.name)
            .property("device-class", class)
            .property("caps", modes);
        if of_libcamera {
            return Some(device.build().upcast());
        }
        let mut properties = gst::Structure::builder("properties").field(PATH, camera.path);
        for (name, value) in USB.iter().zip(camera.usb.into_iter().flatten()) {
            properties = properties.field(*name, value);
        }
        Some(device.property("properties", properties.build()).build().upcast())
    };
    let found = |camera: &Camera| camera.is_of_libcamera == of_libcamera;
    Camera::all().into_iter().filter(found).filter_map(device).collect()
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
            devices(false)
        }

        fn start(&self) -> Result<(), gst::LoggableError> {
            for device in devices(false) {
                self.obj().device_add(&device);
            }
            Ok(())
        }

        fn stop(&self) {}
    }

    #[derive(Default)]
    pub struct OfLibcamera;

    #[glib::object_subclass]
    impl ObjectSubclass for OfLibcamera {
        const NAME: &'static str = "PunchcastTestLibcameraProvider";
        type Type = super::OfLibcamera;
        type ParentType = gst::DeviceProvider;
    }

    impl ObjectImpl for OfLibcamera {
        fn constructed(&self) {
            self.parent_constructed();
            self.obj().hide_provider(NAME);
        }
    }

    impl GstObjectImpl for OfLibcamera {}

    impl DeviceProviderImpl for OfLibcamera {
        fn metadata() -> Option<&'static gst::subclass::DeviceProviderMetadata> {
            static METADATA: LazyLock<gst::subclass::DeviceProviderMetadata> =
                LazyLock::new(|| {
                    gst::subclass::DeviceProviderMetadata::new(
                        "Cameras of a test's libcamera",
                        "Source/Video",
                        "Lists the cameras that a test has plugged in",
                        "punchcast",
                    )
                });
            Some(&METADATA)
        }

        fn probe(&self) -> Vec<gst::Device> {
            devices(true)
        }

        fn start(&self) -> Result<(), gst::LoggableError> {
            for device in devices(true) {
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
            let element = gst::ElementFactory::make(source::NAME);
            let mut element = match path {
                Some(path) => element.property("device", path),
                None => element.property(source::CAMERA_NAME, self.obj().display_name()),
            };
            if let Some(name) = name {
                element = element.name(name);
            }
            element.build().map_err(|error| gst::loggable_error!(gst::CAT_RUST, "{error}"))
        }
    }
}
