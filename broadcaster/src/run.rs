//! Starting a broadcaster, and stopping it.

use std::io::Write;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::path::Path;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use dashmap::DashMap;
use prometheus::Registry;
use protocol::control::{ALPN, Notice, close};
use protocol::link::{Link, Target};
use protocol::offer::Offer;
use protocol::signalling::Update;
use service::exit::Failure;
use service::listener::{Readiness, Shown};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use transport::effort::Word;
use transport::households::Households;
use transport::identity::Identity;
use transport::mapping::PortMapping;
use transport::openings::Openings;
use transport::paths::Peer;
use transport::port::{self, Arrival, Inbound, Port};

use crate::audience::Audience;
use crate::config::{Config, EMBEDDED_PORT, Rendezvous};
use crate::contents::Pace;
use crate::keys;
use crate::library::Library;
use crate::links::Links;
use crate::live::{self, Around, Live, Supervision};
use crate::media::{MediaError, check_environment};
use crate::metrics::Metrics;
use crate::moment::Moment;
use crate::offering::Offering;
use crate::operator::{self, Desk};
use crate::origin::Barred;
use crate::places::{Bookings, Places};
use crate::playout::Workshop;
use crate::private;
use crate::registration::{Introduced, Registrar, Registrations, Server, Told};
use crate::session;
use crate::shared::Shared;
use crate::status::Status;
use crate::surroundings::{Seen, Surroundings};
use crate::uplink::Uplink;
use crate::welcome;

/// How long viewers get to hear that the broadcast ends, and how much longer for each of them.
const GOODBYE: Duration = Duration::from_millis(800);
const GOODBYE_EACH: Duration = Duration::from_micros(500);

/// How long a viewer's handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(8);

/// Introduced viewers beyond the admitted ones that are served at once, at most: 200 a second for all
/// the time that each may take. Each holds a few kilobytes and sends a bounded number of opening packets.
const MOST_OPENING: usize = 4096;

/// Of these, of one household as the rendezvous sees it: until each is let in.
const MOST_OPENING_OF_A_HOUSEHOLD: usize = MOST_OPENING / 4;

impl From<MediaError> for Failure {
    fn from(error: MediaError) -> Self {
        Self::runtime(error)
    }
}

/// Runs a broadcaster until its source ends or it is asked to stop.
pub async fn run(config: Config) -> Result<(), Failure> {
    check_environment()?;
    // Whoever loses something first must not wait for it, nor all others.
    tokio::task::spawn_blocking(protocol::repair::code::prepare);
    let library = config.library.as_deref().map(Library::open).transpose();
    let library = library.map_err(|error| Failure::usage(error.to_string()))?;
    let state = config.state_folder()?;
    // Without the operator's socket nobody could be sent away.
    operator::socket_in(&state)?;
    let identity = Identity::load_or_create(&state).map_err(Failure::runtime)?;
    let links = Links::open(&state, Moment::now()).map_err(|error| {
        Failure::runtime(format!("the links in {} cannot be read: {error}", state.display()))
    })?;
    let registry = service::metrics::registry("broadcaster");
    let embedded = Embedded::start(&config, &registry).await?;
    let metrics =
        Arc::new(Metrics::new(registry, config.metrics.viewer_series, &config.channel_names()));
    metrics.set_uplink(config.uplink, false);
    let audience = Arc::new(Audience::new(Arc::clone(&metrics)));
    let readiness = Readiness::default();
    let status = Arc::<Status>::default();
    if let Some(address) = config.metrics.listen {
        let listed = library.clone();
        let (refreshed, counted) = (Arc::clone(&audience), Arc::clone(&metrics));
        let status = Arc::clone(&status);
        let shown = Shown {
            program: "broadcaster",
            registry: metrics.registry.clone(),
            readiness: readiness.clone(),
            refresh: Box::new(move || {
                refreshed.publish();
                counted.refresh();
                if let Some(library) = &listed {
                    counted.stored.set_library(&library.counts());
                }
            }),
            status: Box::new(move || status.show()),
        };
        service::listener::serve(address, shown).await?;
    }
    let (port, openings) = open_port(&config, &identity, &audience)?;
    metrics.dropped.get_or_init(|| Arc::clone(port.dropped()));

    let channels = config.live_channels();
    let is_alone = channels.len() < 2;
    let around = Around {
        config: &config,
        state: &state,
        port: &port,
        metrics: &metrics,
        audience: &audience,
        is_alone,
    };
    let prepared = channels.into_iter().zip(&metrics.channels);
    let prepared = prepared.map(|(channel, counts)| Live::prepare(channel, counts, &around));
    let (live, supervisions): (Vec<_>, Vec<_>) =
        prepared.collect::<Result<Vec<_>, _>>()?.into_iter().unzip();
    let surroundings = Arc::<Surroundings>::default();
    let workshop = Workshop {
        port: Arc::clone(&port),
        metrics: Arc::clone(&metrics),
        audience: Arc::clone(&audience),
        join_rate: config.join_rate,
        video: config.video.clone(),
        audio: config.audio.clone(),
    };
    let shared = Arc::new(Shared {
        port: Arc::clone(&port),
        openings,
        surroundings: Arc::clone(&surroundings),
        metrics: Arc::clone(&metrics),
        live,
        secret: config.secret()?,
        links,
        links_only: config.links_only,
        link: OnceLock::new(),
        max_viewers: config.max_viewers,
        uplink: Uplink::new(config.uplink),
        allow_private: config.allow_private,
        arrivals: DashMap::new(),
        efforts: DashMap::new(),
        audience,
        guests: Arc::default(),
        seating: Mutex::default(),
        library,
        workshop,
        on_demand: Bookings::default(),
        knock: config.knock,
        door: Arc::default(),
        barred: Barred::default(),
        begun: Mutex::default(),
        encoding: Places::default(),
        pace: Arc::new(Pace::new()),
        fetches: Places::default(),
    });

    status.tell_of(&shared);
    let desk = match Desk::open(&state) {
        Ok(desk) => Some(desk),
        // Nobody could be let in.
        Err(error) if config.knock => {
            return Err(Failure::runtime(format!(
                "with knock: true the operator must reach this broadcaster, and cannot: {error}"
            )));
        }
        Err(error) => {
            tracing::warn!("operators cannot ask this broadcaster: {error}");
            None
        }
    };
    let at_the_desk = async {
        match &desk {
            Some(desk) => desk.answer_all(&shared).await,
            None => std::future::pending().await,
        }
    };
    let shutdown = service::shutdown::requested();
    let mut mapping = None;
    let result = tokio::select! {
        result = shutdown => result.map_err(|error| {
            Failure::runtime(format!("cannot listen for signals: {error}"))
        }),
        end = supervise(supervisions, &config, &shared) => end,
        () = at_the_desk => Err(Failure::runtime("the operator's socket is gone")),
        result = async {
            // The only source has something to tell first. Of several, each may come when it comes.
            if let [alone] = &shared.live[..] {
                runs(alone).await;
            }
            if config.rendezvous()? == Rendezvous::ByHand {
                let (seen_in, seen) = watch::channel(None);
                let offering = offering(&config, &identity, &shared, seen_in, readiness)?;
                let bound = port.socket().local_addr().ok().filter(|_| config.port_mapping);
                mapping = bound.map(|bound| PortMapping::start(bound.port()));
                let beside = async {
                    tokio::join!(
                        accept(port.endpoint().clone(), &shared),
                        watch(&shared),
                        replace_keys(&shared, config.key_interval),
                        shared.audience.watch_silence(),
                        surroundings.watch_addresses(&port),
                        surroundings.watch_behaviour(seen, &metrics),
                        surroundings.watch_mapping(mapping.as_ref()),
                    )
                };
                return tokio::select! {
                    result = offering.run() => result,
                    _ = beside => Ok(()),
                };
            }
            let servers = match &embedded {
                Some(embedded) => {
                    vec![Server { host: embedded.reached_at.clone(), number: embedded.port }]
                }
                None => elsewhere(&config)?,
            };
            let mapped_port = port.socket().local_addr().ok().filter(|bound| {
                let asks = config.port_mapping && !bound.ip().to_canonical().is_loopback();
                asks && !servers.iter().all(Server::is_on_loopback)
            });
            mapping = mapped_port.map(|bound| PortMapping::start(bound.port()));
            let viewers = metrics.viewers.clone();
            let (seen_in, seen) = watch::channel(None);
            let registrar = Registrar {
                port: Arc::clone(&port),
                identity: identity.clone(),
                readiness,
                surroundings: Arc::clone(&surroundings),
                is_busy: Arc::new(move || viewers.get() > 0),
                seen: seen_in,
                events: Arc::clone(&metrics.events),
                standing: Arc::default(),
                token: config.rendezvous_token()?,
            };
            let registrations = registrar.start(&servers).await?;
            let named = match &embedded {
                Some(embedded) => {
                    vec![Server { host: embedded.host.clone(), number: embedded.port }]
                }
                None => servers,
            };
            let looking = surroundings.watch_behaviour(seen, &metrics);
            tokio::pin!(looking);
            tokio::select! {
                () = &mut looking => {}
                () = surroundings.first_look() => {}
            }
            announce(&config, &identity, &named, &shared)?;
            tokio::join!(
                serve_told(registrations, &shared),
                accept(port.endpoint().clone(), &shared),
                watch(&shared),
                replace_keys(&shared, config.key_interval),
                shared.audience.watch_silence(),
                surroundings.watch_addresses(&port),
                looking,
                surroundings.watch_mapping(mapping.as_ref()),
            );
            Ok(())
        } => result,
    };
    tracing::info!("stopping");
    let releasing = async {
        if let Some(mapping) = mapping {
            mapping.release().await;
        }
    };
    tokio::join!(stop(&shared, &port), releasing);
    std::thread::scope(|scope| {
        for live in &shared.live {
            scope.spawn(|| live.source.set(None));
        }
    });
    if let Some(embedded) = embedded {
        embedded.server.stop().await;
    }
    result
}

/// Keeps the sources of all live channels running. One of several that comes to its end leaves the others alone.
///
/// # Errors
///
/// What ended the first channel that failed, once none is left.
async fn supervise(
    supervisions: Vec<Supervision>,
    config: &Config,
    shared: &Shared,
) -> Result<(), Failure> {
    if supervisions.is_empty() {
        return std::future::pending().await;
    }
    let mut running = JoinSet::new();
    for supervision in supervisions {
        let events = Arc::clone(&shared.metrics.events);
        let audience = Arc::clone(&shared.audience);
        running.spawn(supervision.run(config.log_format, events, audience));
    }
    let mut result = Ok(());
    while let Some(ended) = running.join_next().await {
        let (live, end) = ended.map_err(Failure::runtime)?;
        if !running.is_empty() {
            live::bury(&live, &end, &shared.audience).await;
        }
        result = result.and(end);
    }
    result
}

/// Waits until a channel can be watched: for ever, where it never will be. Why, its supervision says.
async fn runs(live: &Live) {
    if live.channel.clone().wait_for(Option::is_some).await.is_err() {
        std::future::pending().await
    }
}

/// Replaces the keys of all live channels, for as long as it is polled.
async fn replace_keys(shared: &Arc<Shared>, interval: Duration) {
    let mut replacing = JoinSet::new();
    for live in &shared.live {
        let (live, shared) = (Arc::clone(live), Arc::clone(shared));
        replacing.spawn(async move { keys::replace_in_time(&live, &shared, interval).await });
    }
    while replacing.join_next().await.is_some() {}
}

/// The rendezvous that the configuration names.
fn elsewhere(config: &Config) -> Result<Vec<Server>, Failure> {
    match config.rendezvous()? {
        Rendezvous::At(servers) => {
            Ok(servers.into_iter().map(|(host, number)| Server { host, number }).collect())
        }
        Rendezvous::Embedded(_) | Rendezvous::ByHand => Ok(Vec::new()),
    }
}

/// A rendezvous within this process.
struct Embedded {
    server: rendezvous::Server,
    /// What links name.
    host: String,
    port: u16,
    /// What the broadcaster itself connects to.
    reached_at: String,
}

impl Embedded {
    async fn start(config: &Config, registry: &Registry) -> Result<Option<Self>, Failure> {
        let Rendezvous::Embedded(listen) = config.rendezvous()? else { return Ok(None) };
        let directory = Arc::new(rendezvous::Directory::default());
        let mut settings = rendezvous::Config { listen, ..rendezvous::Config::default() };
        if !config.embedded_relay {
            settings.relay.mode = rendezvous::config::RelayMode::Off;
        }
        let server = rendezvous::Server::start_beside(&settings, directory, registry.clone());
        let server = server.map_err(|failure| {
            // What follows advises those who run the rendezvous's own program.
            let what = failure.message.split(';').next().unwrap_or_default();
            let advice = "name another port with --embedded-rendezvous '[::]:PORT', or with --rendezvous one that \
                          runs already";
            Failure::new(failure.code, format!("no embedded rendezvous: {what}; {advice}"))
        })?;
        let port = match server.local_addr().port() {
            0 => EMBEDDED_PORT,
            port => port,
        };
        let reached_at = match listen.ip().to_canonical() {
            ip if ip.is_unspecified() => own_address(ip.is_ipv4()).to_string(),
            ip => ip.to_string(),
        };
        let host = config.advertise.clone().unwrap_or_else(|| reached_at.clone());
        Ok(Some(Self { server, host, port, reached_at }))
    }
}

/// The address with which this machine reaches others; loopback where it reaches nobody. Nothing is
/// sent: connecting a UDP socket only looks up the route.
fn own_address(only_v4: bool) -> IpAddr {
    let route = |bind: &str, towards: &str| -> Option<IpAddr> {
        let socket = UdpSocket::bind(bind).ok()?;
        socket.connect(towards).ok()?;
        let ip = socket.local_addr().ok()?.ip();
        (!ip.is_unspecified()).then_some(ip)
    };
    // Documentation addresses (RFC 5737, RFC 3849): routed like any public one.
    let v4 = || route("0.0.0.0:0", "192.0.2.1:9");
    let v6 = || if only_v4 { None } else { route("[::]:0", "[2001:db8::1]:9") };
    let interface = || {
        let candidates = transport::addresses::host_candidates(([0, 0, 0, 0], 9).into(), false);
        candidates.first().map(|candidate| candidate.address.ip())
    };
    v4().or_else(v6).or_else(interface).unwrap_or(IpAddr::from([127, 0, 0, 1]))
}

struct Dispatch {
    openings: Arc<Openings>,
    audience: Arc<Audience>,
}

impl Inbound for Dispatch {
    fn stun(&self, arrival: Arrival, datagram: &[u8]) {
        self.openings.handle(arrival.local, arrival.from, datagram);
    }

    fn media(&self, from: SocketAddr, datagram: &mut [u8]) {
        // Viewers send feedback, and no media.
        self.audience.hear(from, datagram);
    }
}

fn open_port(
    config: &Config,
    identity: &Identity,
    audience: &Arc<Audience>,
) -> Result<(Arc<Port>, Arc<Openings>), Failure> {
    let server = port::Server {
        identity,
        ask_client: false,
        alpn: ALPN,
        strangers: false,
        own_thread: true,
    };
    let mut openings = None;
    let port = Port::open(config.bind, Some(server), |ways, paths| {
        let driver = Openings::new(Arc::clone(ways), Arc::clone(paths));
        openings = Some(Arc::clone(&driver));
        Arc::new(Dispatch { openings: driver, audience: Arc::clone(audience) })
    })
    .map_err(|error| {
        let address = config.bind.map_or("any port".to_owned(), |bind| bind.to_string());
        Failure::runtime(format!("cannot open UDP {address}: {error}; choose another with --bind"))
    })?;
    let openings = openings.expect("the port makes its inbound side at once");
    Ok((Arc::new(port), openings))
}

/// What is offered where there is no rendezvous.
fn offering(
    config: &Config,
    identity: &Identity,
    shared: &Arc<Shared>,
    seen: watch::Sender<Option<Seen>>,
    readiness: Readiness,
) -> Result<Offering, Failure> {
    let offer = Offer {
        broadcaster: identity.id(),
        candidates: Vec::new(),
        channel: config.channel_names()[0].to_owned(),
        secret: config.secret()?,
        stun: config.stun.clone(),
    };
    let link_file = config.link_file.clone();
    let print = move |line: &str| print_lines(link_file.as_deref(), &format!("{line}\n"));
    Ok(Offering { offer, shared: Arc::clone(shared), print: Box::new(print), seen, readiness })
}

/// Prints the channels' links, and writes them where that was asked for.
fn announce(
    config: &Config,
    identity: &Identity,
    servers: &[Server],
    shared: &Shared,
) -> Result<(), Failure> {
    let server = |server: &Server| (server.host.clone(), server.number);
    let secret = config.secret()?;
    let link = |name: &str| Link {
        servers: servers.iter().map(server).collect(),
        broadcaster: identity.id(),
        target: Target::Channel(name.to_owned()),
        secret: secret.clone(),
    };
    let links: Vec<Link> = config.channel_names().into_iter().map(link).collect();
    if let [first, ..] = &links[..] {
        // It is told once.
        let _ = shared.link.set(first.clone());
    }
    let lines: String = links.iter().map(|link| format!("{link}\n")).collect();
    print_lines(config.link_file.as_deref(), &lines)?;
    welcome::welcome(config, &links);
    Ok(())
}

/// Prints lines, and writes them where that was asked for.
fn print_lines(file: Option<&Path>, lines: &str) -> Result<(), Failure> {
    if let Some(path) = file {
        private::write(path, lines).map_err(|error| {
            Failure::runtime(format!("cannot write the link to {}: {error}", path.display()))
        })?;
    }
    let mut out = std::io::stdout().lock();
    // A closed standard output is no reason not to broadcast.
    let _ = out.write_all(lines.as_bytes()).and_then(|()| out.flush());
    Ok(())
}

async fn serve_told(mut registrations: Registrations, shared: &Arc<Shared>) {
    let sessions = Arc::new(Semaphore::new(shared.max_viewers.saturating_add(MOST_OPENING)));
    let households = Households::default();
    while let Some(told) = registrations.told.recv().await {
        match told {
            Told::Introduced(introduced) if introduced.introduction.secret.is_none() => {
                renew(*introduced, shared);
            }
            // A rendezvous says again what may have been lost with a registration.
            Told::Introduced(introduced)
                if shared.efforts.contains_key(&introduced.introduction.id) => {}
            Told::Introduced(introduced) => {
                let Ok(permit) = Arc::clone(&sessions).try_acquire_owned() else {
                    tracing::warn!("too many viewers are being let in at once; one must try again");
                    continue;
                };
                let observed = introduced.introduction.peer_observed.address.ip();
                let Some(place) = households.place(observed, MOST_OPENING_OF_A_HOUSEHOLD) else {
                    tracing::debug!(%observed, "too many viewers of one address are being let in at once");
                    continue;
                };
                if let Some(serving) = session::begin(*introduced, place, shared) {
                    tokio::spawn(async move {
                        serving.await;
                        drop(permit);
                    });
                }
            }
            Told::Update { introduction, update } => {
                if let Some(words) = shared.efforts.get(&introduction) {
                    // The viewer repeats what matters.
                    words.tell(Word::Update(update));
                }
            }
        }
    }
}

/// Hands a renewal to the session that it is for; says so where there is none.
fn renew(introduced: Introduced, shared: &Shared) {
    let Introduced { introduction, rendezvous, updates, .. } = introduced;
    let id = introduction.id;
    match shared.efforts.get(&id) {
        Some(words) => {
            let introduction = Box::new(introduction);
            let renewal = Word::Renewal { introduction, server: rendezvous, updates };
            // A session with so much waiting is renewed by what waits.
            words.tell(renewal);
        }
        None => {
            let gone = Update { is_gone: true, ..Update::default() };
            let _ = updates.try_send((id, gone));
        }
    }
}

/// Hands viewers' connections to the sessions that wait for them.
async fn accept(endpoint: quinn::Endpoint, shared: &Arc<Shared>) {
    while let Some(incoming) = endpoint.accept().await {
        let peer = Peer::from_address(incoming.remote_address());
        let waiting = peer.filter(|peer| shared.arrivals.contains_key(peer));
        let Some(peer) = waiting else {
            incoming.ignore();
            continue;
        };
        let shared = Arc::clone(shared);
        tokio::spawn(async move {
            match tokio::time::timeout(HANDSHAKE, incoming).await {
                Ok(Ok(connection)) => {
                    // The first that completes is the viewer's; others end here.
                    if let Some((_, waiting)) = shared.arrivals.remove(&peer) {
                        let _ = waiting.send(connection);
                    }
                }
                Ok(Err(error)) => tracing::debug!(%error, "viewer's handshake failed"),
                Err(_) => tracing::debug!("a viewer's handshake took too long"),
            }
        });
    }
}

/// How often memory is given back that holds nothing: what stored files left, while any are played; and what a time left
/// in which more waited than usual.
const TRIMMING: Duration = Duration::from_secs(10);
const TRIMMING_ANYWAY: Duration = Duration::from_secs(60);

/// Copies the encoders' counters into the metrics, and looks at the viewers and the uplink, each second. Gives back
/// memory that was left in pieces.
async fn watch(shared: &Shared) {
    let metrics = &shared.metrics;
    let mut ticks = tokio::time::interval(Duration::from_secs(1));
    let (mut stored, mut trimmed_at) = (metrics.stored.activity(), Instant::now());
    loop {
        ticks.tick().await;
        let is_busy = metrics.stored.activity() != stored;
        if trimmed_at.elapsed() >= if is_busy { TRIMMING } else { TRIMMING_ANYWAY } {
            (stored, trimmed_at) = (metrics.stored.activity(), Instant::now());
            transport::kernel::trim_heap();
            tracing::debug!(took_us = trimmed_at.elapsed().as_micros(), "heap trimmed");
        }
        shared.audience.look();
        shared.live.iter().for_each(|live| live.count(metrics, &shared.audience));
        shared.uplink.observe(metrics, &shared.audience, &shared.running());
        shared.share_uplink();
    }
}

async fn stop(shared: &Shared, port: &Port) {
    let patience = GOODBYE + GOODBYE_EACH * shared.audience.len() as u32;
    shared.audience.tell_all(&Notice::Ended);
    let all_gone = async {
        while !shared.audience.is_empty() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let _ = tokio::time::timeout(patience / 2, all_gone).await;
    port.close(close::DONE, "the broadcaster stops");
    let _ = tokio::time::timeout(patience / 2, port.endpoint().wait_idle()).await;
}
