use super::*;

#[test]
fn whoever_works_is_waited_for() {
    let begin = Instant::now();
    let at = |seconds| begin + Duration::from_secs(seconds);
    let mut patience = Patience::new(begin);
    for second in 1..=600 {
        let look = patience.look(at(second), Some(second));
        assert_ne!(look, Look::GiveUp, "after {second} s of work");
        let said = second % SAY_EVERY.as_secs() == 0;
        assert_eq!(look == Look::Say(Duration::from_secs(second)), said, "after {second} s");
    }
    // It stops working, or is gone.
    assert_ne!(patience.look(at(659), Some(600)), Look::GiveUp);
    assert_eq!(patience.look(at(660), Some(600)), Look::GiveUp);
}
