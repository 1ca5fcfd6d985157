use super::FrameScale;
use crate::detect::H2_PREFACE;

fn frame(kind: u8, payload: usize) -> Vec<u8> {
    let mut frame = vec![(payload >> 16) as u8, (payload >> 8) as u8, payload as u8, kind, 0, 0, 0, 0, 1];
    frame.resize(9 + payload, b'x');
    frame
}

#[test]
fn frames_are_told_apart_wherever_the_bytes_are_cut() {
    let mut bytes = H2_PREFACE.to_vec();
    // SETTINGS, HEADERS, DATA, empty DATA, PING, RST_STREAM, WINDOW_UPDATE, CONTINUATION, unknown.
    for (kind, payload) in [(4, 6), (1, 70_000), (0, 300), (0, 0), (6, 8), (3, 4), (8, 4), (9, 1), (200, 0)] {
        bytes.extend(frame(kind, payload));
    }
    for size in [1, 2, 7, 9, 10, 4096, bytes.len()] {
        let mut scale = FrameScale::default();
        bytes.chunks(size).for_each(|part| scale.feed(part));
        assert_eq!((scale.useful, scale.control), (2, 7), "{size}");
    }
}
