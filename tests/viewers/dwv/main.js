// The least page that shows DICOM files with dwv, and says what it shows.
import {App, Index, Point2D} from 'dwv';

const app = new App();
app.init({dataViewConfigs: {'*': [{divId: 'layerGroup0'}]}, viewOnFirstLoadItem: false});
const view = () => app.getViewLayers()[0];

/** Load files and show them over what is shown already; gives dwv's name of the data. */
window.load = (urls) =>
  new Promise((resolve, reject) => {
    const done = (event) => {
      app.removeEventListener('load', done);
      app.render(event.dataid);
      resolve(event.dataid);
    };
    app.addEventListener('load', done);
    app.addEventListener('error', (event) => reject(event.error ?? new Error('dwv could not load it')));
    app.loadURLs(urls);
  });

/** Go to an instance's frame, from 1; dwv takes the frames of one instance for times of one slice. */
window.go = (uid, frame) => {
  const image = app.getImage(app.getDataIds()[0]);
  const [, , slices, times] = image.getGeometry().getSize().getValues();
  for (let slice = 0; slice < slices; slice += 1) {
    const index = new Index(times ? [0, 0, slice, frame - 1] : [0, 0, slice]);
    if (image.getImageUid(index) === uid && view().getViewController().setCurrentIndex(index)) {
      return;
    }
  }
  throw new Error('dwv has no such frame');
};

/** Where the outer corners of the image are on the page: top left, top right, bottom left. */
window.corners = () => {
  const layer = view();
  const {x, y} = document.querySelector('#layerGroup0').getBoundingClientRect();
  const {x: columns, y: rows} = layer.getBaseSize();
  // dwv places points within the image only: a pixel's step, taken once a side.
  const [here, there] = [0, 1].map((pixel) => layer.planePosToDisplay(new Point2D(pixel, pixel)));
  const corner = (column, row) => [
    x + here.getX() + column * (there.getX() - here.getX()),
    y + here.getY() + row * (there.getY() - here.getY()),
  ];
  return {columns, rows, corners: [corner(0, 0), corner(columns, 0), corner(0, rows)]};
};

/** Rectangles drawn, on the page: x, y, width, height. */
window.rectangles = () => {
  const {x, y} = document.querySelector('#layerGroup0').getBoundingClientRect();
  return app.getDrawLayers().flatMap((layer) =>
    layer.getKonvaLayer().find((node) => node.name() === 'shape' && node.isVisible()).map((shape) => {
      const box = shape.getClientRect({skipStroke: true});
      return [box.x + x, box.y + y, box.width, box.height];
    }));
};
window.showRectangles = (visible) => app.getDrawLayers().forEach((layer) => layer.display(visible));
window.ready = true;
