package wire

import (
	"github.com/nimbus-ci/nimbus"
	nimbusv1 "github.com/nimbus-ci/nimbus/api/gen/nimbus/v1"
)

// RateKind makes an enum value.
func RateKind(k nimbus.RateKind) nimbusv1.RateKind {
	switch k {
	case nimbus.RateWebhooks:
		return nimbusv1.RateKind_RATE_KIND_WEBHOOKS
	case nimbus.RateSubmissions:
		return nimbusv1.RateKind_RATE_KIND_SUBMISSIONS
	case nimbus.RateAPI:
		return nimbusv1.RateKind_RATE_KIND_API
	}
	return nimbusv1.RateKind_RATE_KIND_UNSPECIFIED
}

// ToRateKind reads one, "" for an unknown one.
func ToRateKind(k nimbusv1.RateKind) nimbus.RateKind {
	for _, own := range nimbus.RateKinds() {
		if RateKind(own) == k {
			return own
		}
	}
	return ""
}

// Rate makes a message.
func Rate(r nimbus.OrgRate) *nimbusv1.Rate {
	return &nimbusv1.Rate{Kind: RateKind(r.Kind), Rate: r.Rate}
}
