//! mssfix arithmetic.
