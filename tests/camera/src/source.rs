//! The camera itself: a live source that gives pictures in the mode that is asked for.

use std::str::FromStr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{LazyLock, Mutex, PoisonError};
use std::time::{Duration, Instant};

use gstreamer as gst;
use gstreamer::glib;
use gstreamer::prelude::*;
use gstreamer::subclass::prelude::*;
use gstreamer_app as gst_app;
use gstreamer_base as gst_base;
use gstreamer_base::prelude::*;
use gstreamer_base::subclass::base_src::CreateSuccess;
use gstreamer_base::subclass::prelude::*;

use crate::plugged::Camera;

/// The element's name.
pub(crate) const NAME: &str = "punchcasttestcamerasrc";

/// The property by which libcamera's element is told its camera.
pub(crate) const CAMERA_NAME: &str = "camera-name";

/// Pictures from one keyframe to the next in H.264 modes: like no interval that the broadcaster asks its own
/// encoder for.
pub const KEYFRAME_DISTANCE: usize = 7;

/// How often it is looked whether the camera is still plugged in, and waited for a picture.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);
const PICTURE_WAIT: gst::ClockTime = gst::ClockTime::from_mseconds(20);

glib::wrapper! {
    /// The source element.
    pub struct Source(ObjectSubclass<inner::Source>)
        @extends gst_base::PushSrc, gst_base::BaseSrc, gst::Element, gst::Object;
}

pub(crate) fn register(plugin: &gst::Plugin) -> Result<(), glib::BoolError> {
    gst::Element::register(Some(plugin), NAME, gst::Rank::NONE, Source::static_type())
}

/// What gives the pictures.
struct Pictures {
    pipeline: gst::Pipeline,
    sink: gst_app::AppSink,
    mode: gst::Caps,
    looked_at: Instant,
}

impl Pictures {
    fn of(mode: &gst::Caps) -> Result<Self, glib::Error> {
        let form = mode.structure(0).map(|form| form.name().to_string()).unwrap_or_default();
        let raw = match form.as_str() {
            "video/x-raw" => mode.clone(),
            _ => {
                let mut raw = gst::Caps::new_empty_simple("video/x-raw");
                for field in ["width", "height", "framerate"] {
                    let value = mode.structure(0).and_then(|form| form.value(field).ok());
                    if let (Some(value), Some(raw)) = (value, raw.make_mut().structure_mut(0)) {
                        raw.set_value(field, value.clone());
                    }
                }
                raw
            }
        };
        let encoder = match form.as_str() {
            "image/jpeg" => "! jpegenc".to_owned(),
            "video/x-h264" => format!(
                "! x264enc tune=zerolatency speed-preset=ultrafast threads=1 \
                 key-int-max={KEYFRAME_DISTANCE} option-string=scenecut=0 \
                 ! video/x-h264,stream-format=byte-stream,alignment=au"
            ),
            _ => String::new(),
        };
        let description = format!(
            "videotestsrc is-live=true pattern=ball ! capsfilter caps=\"{raw}\" {encoder} \
             ! appsink name=sink sync=false max-buffers=8"
        );
        let broken = |what: &str| glib::Error::new(gst::CoreError::Failed, what);
        let pipeline = gst::parse::launch(&description)?;
        let pipeline = pipeline.downcast::<gst::Pipeline>().map_err(|_| broken("no pipeline"))?;
        let sink = pipeline.by_name("sink").and_downcast().ok_or_else(|| broken("no sink"))?;
        pipeline.set_state(gst::State::Playing).map_err(|_| broken("it does not start"))?;
        Ok(Self { pipeline, sink, mode: mode.clone(), looked_at: Instant::now() })
    }
}

impl Drop for Pictures {
    fn drop(&mut self) {
        let _ = self.pipeline.set_state(gst::State::Null);
    }
}

mod inner {
    use super::*;

    #[derive(Default)]
    pub struct Source {
        device: Mutex<String>,
        pictures: Mutex<Option<Pictures>>,
        is_flushing: AtomicBool,
        is_of_libcamera: AtomicBool,
    }

    impl Source {
        fn device(&self) -> String {
            self.device.lock().unwrap_or_else(PoisonError::into_inner).clone()
        }

        fn camera(&self) -> Result<Camera, gst::ErrorMessage> {
            let device = self.device();
            Camera::at(&device).ok_or_else(|| {
                gst::error_msg!(gst::ResourceError::NotFound, ["no camera is at '{device}'"])
            })
        }
    }

    #[glib::object_subclass]
    impl ObjectSubclass for Source {
        const NAME: &'static str = "PunchcastTestCameraSrc";
        type Type = super::Source;
        type ParentType = gst_base::PushSrc;
    }

    impl ObjectImpl for Source {
        fn constructed(&self) {
            self.parent_constructed();
            self.obj().set_live(true);
            self.obj().set_format(gst::Format::Time);
        }

        fn properties() -> &'static [glib::ParamSpec] {
            static PROPERTIES: LazyLock<Vec<glib::ParamSpec>> = LazyLock::new(|| {
                let text = |name| glib::ParamSpecString::builder(name).mutable_ready().build();
                vec![text("device"), text(CAMERA_NAME)]
            });
            &PROPERTIES
        }

        fn set_property(&self, _: usize, value: &glib::Value, property: &glib::ParamSpec) {
            let is_name = property.name() == CAMERA_NAME;
            self.is_of_libcamera.store(is_name, Ordering::Release);
            let device = value.get::<Option<String>>().ok().flatten().unwrap_or_default();
            *self.device.lock().unwrap_or_else(PoisonError::into_inner) = device;
        }

        fn property(&self, _: usize, _: &glib::ParamSpec) -> glib::Value {
            self.device().to_value()
        }
    }

    impl GstObjectImpl for Source {}

    impl ElementImpl for Source {
        fn metadata() -> Option<&'static gst::subclass::ElementMetadata> {
            static METADATA: LazyLock<gst::subclass::ElementMetadata> = LazyLock::new(|| {
                gst::subclass::ElementMetadata::new(
                    "Camera of a test",
                    "Source/Video",
                    "Gives pictures while a test has it plugged in",
                    "punchcast",
                )
            });
            Some(&METADATA)
        }

        fn pad_templates() -> &'static [gst::PadTemplate] {
            static TEMPLATES: LazyLock<Vec<gst::PadTemplate>> = LazyLock::new(|| {
                let caps = gst::Caps::from_str("video/x-raw;image/jpeg;video/x-h264");
                let (source, always) = (gst::PadDirection::Src, gst::PadPresence::Always);
                let template =
                    caps.and_then(|caps| gst::PadTemplate::new("src", source, always, &caps));
                template.into_iter().collect()
            });
            &TEMPLATES
        }

        fn change_state(
            &self,
            transition: gst::StateChange,
        ) -> Result<gst::StateChangeSuccess, gst::StateChangeError> {
            // A device is opened here.
            if transition == gst::StateChange::NullToReady
                && let Err(error) = self.camera()
            {
                self.post_error_message(error);
                return Err(gst::StateChangeError);
            }
            self.parent_change_state(transition)
        }
    }

    impl BaseSrcImpl for Source {
        fn start(&self) -> Result<(), gst::ErrorMessage> {
            let camera = self.camera()?;
            if camera.is_busy {
                return Err(gst::error_msg!(
                    gst::ResourceError::Busy,
                    ["Device '{}' is busy", camera.path]
                ));
            }
            Ok(())
        }

        fn stop(&self) -> Result<(), gst::ErrorMessage> {
            *self.pictures.lock().unwrap_or_else(PoisonError::into_inner) = None;
            Ok(())
        }

        fn is_seekable(&self) -> bool {
            false
        }

        fn caps(&self, filter: Option<&gst::Caps>) -> Option<gst::Caps> {
            // libcamera's only knows what it gives once it runs.
            let knows = !self.is_of_libcamera.load(Ordering::Acquire);
            let camera = self.camera().ok().filter(|_| knows);
            let modes = camera.and_then(|camera| camera.modes.parse().ok());
            let caps: gst::Caps = modes.unwrap_or_else(|| self.obj().src_pad().pad_template_caps());
            Some(match filter {
                Some(filter) => filter.intersect_with_mode(&caps, gst::CapsIntersectMode::First),
                None => caps,
            })
        }

        fn set_caps(&self, caps: &gst::Caps) -> Result<(), gst::LoggableError> {
            let pictures = Pictures::of(caps)
                .map_err(|error| gst::loggable_error!(gst::CAT_RUST, "{caps}: {error}"))?;
            *self.pictures.lock().unwrap_or_else(PoisonError::into_inner) = Some(pictures);
            Ok(())
        }

        fn unlock(&self) -> Result<(), gst::ErrorMessage> {
            self.is_flushing.store(true, Ordering::Release);
            Ok(())
        }

        fn unlock_stop(&self) -> Result<(), gst::ErrorMessage> {
            self.is_flushing.store(false, Ordering::Release);
            Ok(())
        }
    }

    impl PushSrcImpl for Source {
        fn create(&self, _: Option<&mut gst::BufferRef>) -> Result<CreateSuccess, gst::FlowError> {
            loop {
                if self.is_flushing.load(Ordering::Acquire) {
                    return Err(gst::FlowError::Flushing);
                }
                let mut pictures = self.pictures.lock().unwrap_or_else(PoisonError::into_inner);
                let pictures = pictures.as_mut().ok_or(gst::FlowError::NotNegotiated)?;
                if pictures.looked_at.elapsed() >= LOOK_INTERVAL {
                    pictures.looked_at = Instant::now();
                    let Ok(camera) = self.camera() else {
                        gst::element_imp_error!(
                            self,
                            gst::ResourceError::Read,
                            ["Could not read from device '{}'", self.device()]
                        );
                        return Err(gst::FlowError::Error);
                    };
                    let modes =
                        gst::Caps::from_str(&camera.modes).unwrap_or(gst::Caps::new_empty());
                    if !modes.can_intersect(&pictures.mode) {
                        gst::element_imp_error!(
                            self,
                            gst::StreamError::Format,
                            ["Device '{}' changed its format", camera.path]
                        );
                        return Err(gst::FlowError::NotNegotiated);
                    }
                }
                let sample = pictures.sink.try_pull_sample(PICTURE_WAIT);
                let Some(mut picture) = sample.and_then(|sample| sample.buffer_owned()) else {
                    continue;
                };
                // Its own times are those of the pipeline within.
                let now = self.obj().current_running_time();
                let times = picture.make_mut();
                times.set_pts(now);
                times.set_dts(None);
                return Ok(CreateSuccess::NewBuffer(picture));
            }
        }
    }
}
