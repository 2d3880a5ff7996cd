"""The gateway: carries every machine's recurrent state and publishes anomaly flags."""
