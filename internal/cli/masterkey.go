package cli

import (
	"os"
	"path/filepath"

	"github.com/nimbus-ci/nimbus/internal/identity"
)

// Where the master key can come from, besides a flag.
const (
	masterKeyVariable = "NIMBUS_MASTER_KEY"
	// masterKeyCredential is the name under which systemd's LoadCredential= can
	// hand the key file in.
	masterKeyCredential = "nimbus-master-key"
)

// masterKeyFlags say where the master key is.
type masterKeyFlags struct {
	MasterKeyFile string `help:"File with the key of what is sealed; the same for all replicas. NIMBUS_MASTER_KEY holds what would be in it; systemd's credential nimbus-master-key is found by itself. Default: master.key in the data directory, made when it isn't there." env:"NIMBUS_MASTER_KEY_FILE" type:"path" placeholder:"FILE"`
}

// source is the first of: the flag, the variable, systemd's credential, the data
// directory. The variable is taken away, so that no program that is started from
// here inherits it.
func (f masterKeyFlags) source(data string) identity.KeySource {
	text := os.Getenv(masterKeyVariable)
	os.Unsetenv(masterKeyVariable) //nolint:errcheck // fails for an empty name alone
	credentials := os.Getenv("CREDENTIALS_DIRECTORY")
	if f.MasterKeyFile != "" {
		return identity.KeySource{File: f.MasterKeyFile, Sheltered: credentials != "" && filepath.Dir(f.MasterKeyFile) == filepath.Clean(credentials)}
	}
	if text != "" {
		return identity.KeySource{Text: text}
	}
	if credentials != "" {
		path := filepath.Join(credentials, masterKeyCredential)
		if _, err := os.Stat(path); err == nil {
			return identity.KeySource{File: path, Sheltered: true}
		}
	}
	return identity.KeySource{File: filepath.Join(data, "master.key")}
}
