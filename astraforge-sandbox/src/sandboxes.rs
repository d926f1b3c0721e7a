//! Sessions on any driver.
