use super::*;

fn behaviours() -> Vec<Behaviour> {
    let dependences = || [None].into_iter().chain(Dependence::ALL.map(Some));
    let ports = [
        None,
        Some(Ports::Preserved),
        Some(Ports::Other),
        Some(Ports::Sequential { step: -2 }),
        Some(Ports::Random),
    ];
    let flags = [None, Some(false), Some(true)];
    let mut all = Vec::new();
    for translated in flags {
        for mapping in dependences() {
            for filtering in dependences() {
                for ports in ports {
                    for takes_unsolicited in flags {
                        let hairpin = takes_unsolicited;
                        all.push(Behaviour {
                            translated,
                            mapping,
                            filtering,
                            ports,
                            takes_unsolicited,
                            hairpin,
                        });
                    }
                }
            }
        }
    }
    all
}

#[test]
fn a_behaviour_survives_its_way_through_an_introduction() {
    for behaviour in behaviours() {
        let bytes = minicbor::to_vec(behaviour).expect("a vector has room");
        let decoded: Behaviour = minicbor::decode(&bytes).expect("as it was written");
        assert_eq!(decoded, behaviour);
    }
}

#[test]
fn kinds_stand_for_what_they_name() {
    for kind in Kind::KNOWN.into_iter().chain([Kind::Unknown]) {
        assert_eq!(kind.behaviour().kind(), kind);
    }
}

/// The table "what opens": what was measured with real NATs.
#[test]
fn what_opens_with_what() {
    use Chance::{Direct, Predicted, Relayed, Searched};
    use Kind::{
        AddressDependent, AddressRestricted, EndpointIndependent, Firewall, Open, PortRestricted,
        Random, Sequential,
    };
    for kind in Kind::KNOWN {
        for open in [Open, EndpointIndependent, AddressRestricted, Firewall, PortRestricted] {
            let filtered = matches!(open, Firewall | PortRestricted);
            let expected = match kind {
                Sequential if filtered => Predicted,
                AddressDependent | Random if filtered => Searched,
                _ => Direct,
            };
            assert_eq!(direct(&open.behaviour(), &kind.behaviour()), expected, "{open} {kind}");
        }
    }
    for (one, other, expected) in [
        (Sequential, Sequential, Predicted),
        (Sequential, Random, Relayed),
        (Random, Random, Relayed),
        (AddressDependent, Random, Relayed),
        (AddressDependent, AddressDependent, Relayed),
    ] {
        assert_eq!(direct(&one.behaviour(), &other.behaviour()), expected, "{one} {other}");
    }
}

#[test]
fn it_makes_no_difference_which_side_is_which() {
    let all = behaviours();
    for one in &all {
        for other in &all {
            assert_eq!(direct(one, other), direct(other, one));
        }
        let unknown = direct(one, &Behaviour::default());
        let reachable = direct(one, &Kind::Open.behaviour());
        assert_eq!(reachable, Chance::Direct);
        assert!(matches!(unknown, Chance::Direct | Chance::Unknown));
    }
}
