"""One file per dataset; the catalogue finds them by their being here."""
