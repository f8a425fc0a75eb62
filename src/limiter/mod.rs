//! The gates that keep senders and recipients within their rates, what is learned of those, and the
//! pauses that answers ask for. Quiet: `now` is an argument, an instant is the answer, waiting is the
//! caller's business. The only place that names governor.

mod brake;
mod bucket;
mod gate;
mod learning;
mod pace;
mod pause;
mod rates;
mod recipients;
mod setbacks;
mod starts;
mod templates;

pub use brake::{Brake, Change, Pass, Sign, Wait};
pub use gate::{Gate, Rate};
pub use learning::Learning;
pub use pace::Pace;
pub use pause::{Pause, Probe, Told, Turned};
pub use rates::{Rates, Source};
pub use recipients::{RecipientLimit, Recipients};
pub use templates::{TemplateKey, Templates};
