use super::*;

fn nets(list: &[&str]) -> Vec<IpNet> {
    list.iter().map(|net| net.parse().expect("a CIDR")).collect()
}

fn strings(addresses: &[IpAddr]) -> Vec<String> {
    addresses.iter().map(ToString::to_string).collect()
}

#[test]
fn takes_one_of_each_family_and_goes_round() {
    let mut ipam = Ipam::new(&nets(&["fd00::/64", "10.0.0.0/29"]), &[]).expect("pools");
    let first = ipam.allocate().expect("room");
    assert_eq!(strings(&first), ["10.0.0.2", "fd00::2"]);
    for address in first {
        ipam.release(address);
    }
    // What was released is not the next one.
    assert_eq!(strings(&ipam.allocate().expect("room")), ["10.0.0.3", "fd00::3"]);
    for last in ["10.0.0.4", "10.0.0.5", "10.0.0.6", "10.0.0.2"] {
        assert_eq!(ipam.allocate().expect("room")[0].to_string(), last);
    }
    let error = ipam.allocate().expect_err("all five are taken");
    assert_eq!(error, IpamError::Exhausted { net: nets(&["10.0.0.0/29"])[0], used: 5 });
}

#[test]
fn exhaustion_of_one_family_takes_nothing_of_the_other() {
    let mut ipam = Ipam::new(&nets(&["10.0.0.0/24", "fd00::/126"]), &[]).expect("pools");
    ipam.allocate().expect("fd00::2");
    ipam.allocate().expect("fd00::3");
    ipam.allocate().expect_err("IPv6 is full");
    assert!(!ipam.used.contains(&"10.0.0.4".parse::<IpAddr>().expect("an address")));
}

#[test]
fn a_second_cidr_of_the_family_follows_the_first() {
    let mut ipam = Ipam::new(&nets(&["10.0.0.0/30", "10.0.1.0/30"]), &[]).expect("pools");
    assert_eq!(strings(&ipam.allocate().expect("room")), ["10.0.0.2"]);
    assert_eq!(strings(&ipam.allocate().expect("room")), ["10.0.1.2"]);
    ipam.allocate().expect_err("both are full");
}

#[test]
fn survives_a_restart() {
    let pods = nets(&["10.0.0.0/24", "fd00::/64"]);
    let mut ipam = Ipam::new(&pods, &[]).expect("pools");
    let kept = ipam.allocate().expect("room");
    let gone = ipam.allocate().expect("room");
    gone.iter().for_each(|address| ipam.release(*address));

    let mut again = Ipam::new(&pods, &ipam.cursors()).expect("pools");
    kept.iter().for_each(|address| again.adopt(*address));
    assert_eq!(strings(&again.allocate().expect("room")), ["10.0.0.4", "fd00::4"]);
}

#[test]
fn refuses_what_has_no_room() {
    for net in ["10.0.0.0/31", "10.0.0.1/32", "fd00::/127"] {
        let error = Ipam::new(&nets(&[net]), &[]).expect_err(net);
        assert_eq!(error, IpamError::TooSmall(nets(&[net])[0]));
    }
    assert_eq!(Ipam::new(&[], &[]).expect_err("none"), IpamError::NoPool);
    // The widest there is does not overflow.
    let mut ipam = Ipam::new(&nets(&["::/0", "0.0.0.0/0"]), &[]).expect("pools");
    assert_eq!(strings(&ipam.allocate().expect("room")), ["0.0.0.2", "::2"]);
}
