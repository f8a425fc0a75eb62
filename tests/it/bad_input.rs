//! The whole way of what producers get wrong.
