//! The gates that keep senders and recipients within their rates. Quiet: `now` is an argument, an
//! instant is the answer, waiting is the caller's business. The only place that names governor.

mod brake;
mod bucket;
mod gate;
mod rates;
mod recipients;

pub use brake::{Brake, Change, Pass, Sign, Wait};
pub use gate::{Gate, Rate};
pub use rates::{Rates, Source};
pub use recipients::{RecipientLimit, Recipients};
