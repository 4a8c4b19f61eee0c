"""Every answer of a service, compared with what the files of its bundle say."""
