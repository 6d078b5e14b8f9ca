//! Numbers as people read them.

use super::at;
use crate::judge::words::{ago, chance, clock, count, latency, percent};

#[test]
fn numbers_are_short_and_no_finer_than_they_are_known() {
    for (share, text) in [
        (0.0, "0 %"),
        (0.25, "25 %"),
        (0.005, "0.5 %"),
        (0.0049505, "0.5 %"),
        (0.0523, "5.2 %"),
        (0.0001, "0.01 %"),
        (0.000_001, "under 0.01 %"),
        (0.999_999, "100 %"),
        (1.0, "100 %"),
    ] {
        assert_eq!(percent(share), text, "{share}");
    }
    assert_eq!([0, 999, 1_010, 1_234_567].map(count), ["0", "999", "1,010", "1,234,567"]);
    assert_eq!(
        [180_000.0, 4_200.0, 1_500_000.0, 12_345.0].map(latency),
        ["180 ms", "4.2 ms", "1.5 s", "12 ms"]
    );
    assert_eq!(
        [0.3, 200.0, 4_273.0, 1e30].map(chance),
        ["1 in 1", "1 in 200", "1 in 4,200", "less than 1 in 1,000,000"]
    );
    assert_eq!(clock(at(3_725)), "17:02:05 UTC");
    assert_eq!([0, 12_400, 180_000, 7_200_000].map(ago), ["0 s", "12 s", "3 min", "2 h"]);
}
