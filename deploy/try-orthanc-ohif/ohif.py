"""OHIF as its makers release it, and how its page finds Orthanc's DICOMweb on its own origin."""

import json

from npm_packages import NpmPackage

OHIF = {
    "3.13.2": NpmPackage(
        "@ohif/app",
        "3.13.2",
        "sha512-WZdxmpmG7rqFgW9ZJLcbgr3XCtLi1KDNPoMaeY5PPe6j4G4fjEjjkycZM6C6Zk2F87BKxFfpq+jd5xXZB9E8EA==",
    ),
    "3.12.10": NpmPackage(
        "@ohif/app",
        "3.12.10",
        "sha512-0kuF66Mq9c9dMD++bUsTjMrJpXJwaZhz9B4uS244DawAjSkTwIYFU93pxPuRUQixaRi7QAHlF3Fe1qudBlZrmA==",
    ),
}
"""The releases that results were opened in, by version; see deploy/VIEWERS.md."""

_SETTINGS = {
    "routerBasename": "/",
    "showStudyList": True,
    "extensions": [],
    "modes": [],
    "showLoadingIndicator": True,
    "showWarningMessageForCrossOrigin": False,
    "showCPUFallbackMessage": False,
    "investigationalUseDialog": {"option": "never"},
    "maxNumberOfWebWorkers": 1,
    "useSharedArrayBuffer": "FALSE",
    "defaultDataSourceName": "dicomweb",
    "dataSources": [
        {
            "namespace": "@ohif/extension-default.dataSourcesModule.dicomweb",
            "sourceName": "dicomweb",
            "configuration": {
                "friendlyName": "Orthanc",
                "name": "orthanc",
                "wadoUriRoot": "/dicom-web",
                "qidoRoot": "/dicom-web",
                "wadoRoot": "/dicom-web",
                "qidoSupportsIncludeField": False,
                "imageRendering": "wadors",
                "thumbnailRendering": "wadors",
                "omitQuotationForMultipartRequest": True,
                "bulkDataURI": {"enabled": True},
            },
        }
    ],
}
_HIDE_TOUR = """document.addEventListener('DOMContentLoaded', () => {
    const style = document.createElement('style');
    style.textContent = '.shepherd-modal-overlay-container, .shepherd-element { display: none !important }';
    document.head.append(style);
})"""
CONFIG = {"/app-config.js": f"window.config = {json.dumps(_SETTINGS)};\n{_HIDE_TOUR};"}
"""What a site of OHIF needs to find Orthanc's DICOMweb on its own origin; its tour would lie over the image."""
