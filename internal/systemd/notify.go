package systemd

import (
	"fmt"

	"github.com/coreos/go-systemd/v22/daemon"
)

// Joining tells systemd, where it started this process, what is waited for.
func Joining(server string) error {
	_, err := daemon.SdNotify(false, "STATUS=joining "+server)
	return told(err)
}

// Ready tells systemd that the service serves. What is started from here on
// can't speak for it.
func Ready(server string) error {
	_, err := daemon.SdNotify(true, daemon.SdNotifyReady+"\nSTATUS=runs jobs of "+server)
	return told(err)
}

func told(err error) error {
	if err != nil {
		return fmt.Errorf("tell systemd: %w", err)
	}
	return nil
}
