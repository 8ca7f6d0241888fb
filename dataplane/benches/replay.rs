//! The replay window: a look and a mark per packet, in the orders that networks bring.

mod common;

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use ringway_dataplane::replay::ReplayWindow;

/// Packets per iteration.
const COUNT: u64 = 1024;

/// A name, and which id comes `i`th.
type Order = (&'static str, fn(u64) -> u64);

/// Every id once, and how far it is displaced.
const ORDERS: [Order; 3] = [
    ("in order", |i| i),
    ("pairs swapped", |i| i ^ 1),
    ("blocks of 32 reversed", |i| i ^ 31),
];

fn accepted(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("replay");
    group.throughput(Throughput::Elements(COUNT));
    for size in [64, 65_536] {
        for (name, order) in ORDERS {
            let mut window = ReplayWindow::new(size, 15);
            // A multiple of 32, so that the orders stay within their blocks.
            let mut base = 32;
            group.bench_function(BenchmarkId::new(name, size), |bencher| {
                bencher.iter(|| {
                    for i in 0..COUNT {
                        let id = base + order(i);
                        let fresh = window.look(1, black_box(id));
                        assert!(fresh, "id {id} refused");
                        window.mark(1, id);
                    }
                    base += COUNT;
                });
            });
        }
        let mut window = ReplayWindow::new(size, 15);
        window.mark(1, 1 << 20);
        group.bench_function(BenchmarkId::new("replayed", size), |bencher| {
            bencher.iter(|| {
                (0..COUNT)
                    .filter(|_| window.look(1, black_box(1 << 20)))
                    .count()
            });
        });
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = common::criterion();
    targets = accepted
}
criterion_main!(benches);
