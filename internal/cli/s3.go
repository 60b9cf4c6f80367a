package cli

import (
	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/blob/s3"
)

// s3Flags say where uploaded files are kept, if not in the database, and caches.
type s3Flags struct {
	Endpoint        string `help:"URL of an object store that speaks S3: uploaded files and caches are kept there. Default: files in the database, and no cache." env:"NIMBUS_S3_ENDPOINT" placeholder:"URL"`
	Bucket          string `help:"Its bucket, which has to be there." env:"NIMBUS_S3_BUCKET" placeholder:"NAME"`
	Prefix          string `help:"What the names of all objects begin with, as nimbus/. Default: nothing." env:"NIMBUS_S3_PREFIX" placeholder:"PREFIX/"`
	Region          string `help:"The bucket's region. Default: ${default}." default:"us-east-1" env:"NIMBUS_S3_REGION" placeholder:"REGION"`
	PathStyle       bool   `help:"Name the bucket in the path of URLs at Amazon, too." env:"NIMBUS_S3_PATH_STYLE"`
	CredentialsFile string `help:"File with the credentials, as Amazon's tools have it. Or set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY." type:"path" placeholder:"FILE"`
	CA              string `help:"File with CA certificates, PEM, that are trusted beside the system's." name:"ca" type:"path" placeholder:"FILE"`
}

// config reads them: nil where there is no object store. Codes: invalid.
func (f s3Flags) config() (*s3.Config, error) {
	if f.Endpoint == "" {
		if f.Bucket != "" || f.Prefix != "" || f.CredentialsFile != "" || f.CA != "" || f.PathStyle {
			return nil, badUsage(nimbus.Errorf(nimbus.CodeInvalid, "an object store needs its address").WithHint("give --s3-endpoint https://…"))
		}
		return nil, nil
	}
	return &s3.Config{
		Endpoint: f.Endpoint, Bucket: f.Bucket, Prefix: f.Prefix, Region: f.Region, PathStyle: f.PathStyle,
		CredentialsFile: f.CredentialsFile, CAFile: f.CA,
	}, nil
}
