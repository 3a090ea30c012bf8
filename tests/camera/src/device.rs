//! A device that takes pictures, in the place of V4L2's sink: a file that holds whatever was shown, raw.

use std::fs::File;
use std::io::Write;
use std::str::FromStr;
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};

use gstreamer as gst;
use gstreamer::glib;
use gstreamer::prelude::*;
use gstreamer::subclass::prelude::*;
use gstreamer_base as gst_base;
use gstreamer_base::subclass::prelude::*;

/// The element's name: that of the real one, which programs ask for.
const NAME: &str = "v4l2sink";

/// Forms of pictures that it takes, as a device has but some of those that there are.
const TAKEN: &str = "video/x-raw,format={I420,YUY2}";

glib::wrapper! {
    /// The sink.
    pub struct Sink(ObjectSubclass<inner::Sink>)
        @extends gst_base::BaseSink, gst::Element, gst::Object;
}

pub(crate) fn register(plugin: &gst::Plugin) -> Result<(), glib::BoolError> {
    gst::Element::register(Some(plugin), NAME, gst::Rank::NONE, Sink::static_type())
}

mod inner {
    use super::*;

    #[derive(Default)]
    pub struct Sink {
        device: Mutex<String>,
        open: Mutex<Option<File>>,
    }

    impl Sink {
        fn open(&self) -> MutexGuard<'_, Option<File>> {
            self.open.lock().unwrap_or_else(PoisonError::into_inner)
        }

        fn device(&self) -> MutexGuard<'_, String> {
            self.device.lock().unwrap_or_else(PoisonError::into_inner)
        }
    }

    #[glib::object_subclass]
    impl ObjectSubclass for Sink {
        const NAME: &'static str = "PunchcastTestV4l2Sink";
        type Type = super::Sink;
        type ParentType = gst_base::BaseSink;
    }

    impl ObjectImpl for Sink {
        fn properties() -> &'static [glib::ParamSpec] {
            static PROPERTIES: LazyLock<Vec<glib::ParamSpec>> = LazyLock::new(|| {
                vec![glib::ParamSpecString::builder("device").mutable_ready().build()]
            });
            &PROPERTIES
        }

        fn set_property(&self, _: usize, value: &glib::Value, _: &glib::ParamSpec) {
            *self.device() = value.get::<Option<String>>().ok().flatten().unwrap_or_default();
        }

        fn property(&self, _: usize, _: &glib::ParamSpec) -> glib::Value {
            self.device().to_value()
        }
    }

    impl GstObjectImpl for Sink {}

    impl ElementImpl for Sink {
        fn metadata() -> Option<&'static gst::subclass::ElementMetadata> {
            static METADATA: LazyLock<gst::subclass::ElementMetadata> = LazyLock::new(|| {
                gst::subclass::ElementMetadata::new(
                    "Device of a test",
                    "Sink/Video",
                    "Writes pictures into a file as they are",
                    "punchcast",
                )
            });
            Some(&METADATA)
        }

        fn pad_templates() -> &'static [gst::PadTemplate] {
            static TEMPLATES: LazyLock<Vec<gst::PadTemplate>> = LazyLock::new(|| {
                let (sink, always) = (gst::PadDirection::Sink, gst::PadPresence::Always);
                let caps = gst::Caps::from_str(TAKEN);
                let template =
                    caps.and_then(|caps| gst::PadTemplate::new("sink", sink, always, &caps));
                template.into_iter().collect()
            });
            &TEMPLATES
        }

        fn change_state(
            &self,
            transition: gst::StateChange,
        ) -> Result<gst::StateChangeSuccess, gst::StateChangeError> {
            match transition {
                // Nobody else's: a device is opened by one at a time, and is there already.
                gst::StateChange::NullToReady => {
                    let opened = File::options().append(true).open(&*self.device());
                    let opened = opened.map_err(|error| {
                        gst::element_imp_error!(self, gst::ResourceError::OpenWrite, ["{error}"]);
                        gst::StateChangeError
                    })?;
                    *self.open() = Some(opened);
                }
                gst::StateChange::ReadyToNull => *self.open() = None,
                _ => {}
            }
            self.parent_change_state(transition)
        }
    }

    impl BaseSinkImpl for Sink {
        fn render(&self, picture: &gst::Buffer) -> Result<gst::FlowSuccess, gst::FlowError> {
            let bytes = picture.map_readable().map_err(|_| gst::FlowError::Error)?;
            let written = self.open().as_mut().map(|file| file.write_all(&bytes));
            match written {
                Some(Ok(())) => Ok(gst::FlowSuccess::Ok),
                _ => Err(gst::FlowError::Error),
            }
        }
    }
}
